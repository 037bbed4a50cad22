"""JSON and text files that describe data sets, results, and clusters."""

import contextlib
import json
import os
import random
from typing import Any, Callable, List

from common import results
from common.data import image_sources, tfrecords
from common.devices import rank_table
from common.distribution import cluster
from common.errors import UserError
from scripts import check_data
from scripts.faults.fuzz_input import damaged
from scripts.faults.fuzzing.target import NUMBERS, Target


def descriptions(directory: str) -> Target:
    """dataset.json, results.json, rank tables, TF_CONFIG, labels.txt, lists of synsets.

    The first byte of an input says which.
    """
    readers = [
        _reader(directory, tfrecords.DATASET_INFO, lambda path: _read_info(directory)),
        _reader(directory, results.FILE_NAME, lambda path: _read_results(directory)),
        _reader(directory, "table.json", lambda path: rank_table.check_file(path, 2)),
        lambda data: cluster.parse(data.decode("utf-8", "surrogateescape")),
        _reader(directory, tfrecords.LABELS, lambda path: tfrecords.read_labels(directory)),
        _reader(directory, "truth.txt", lambda path: image_sources._read_ground_truth(path, path)),
    ]

    def run(data):
        if data:
            with contextlib.suppress(UserError):
                readers[data[0] % len(readers)](data[1:])

    return Target(_description_seeds, _mutate_description, run)


def _reader(directory: str, name: str, read: Callable[[str], Any]):
    path = os.path.join(directory, name)

    def write_and_read(data):
        with open(path, "wb") as file:
            file.write(data)
        read(path)

    return write_and_read


def _read_info(directory: str):
    info = tfrecords.read_dataset_info(directory)
    expected = {s["name"]: s for split in info["splits"].values() for s in split["shards"]}
    for name, shard in expected.items():
        check_data._compare_with_info(check_data.SplitReport(), name, "0" * 64, shard)
    report = check_data.SplitReport()
    check_data._check_shard_set(report, [os.path.join(directory, n) for n in expected], expected)
    check_data._check_labels_file(directory, info, {"train": report})
    json.dumps(report.as_dict()).encode("utf-8")


def _read_results(directory: str):
    results.is_evaluated(directory, 5)
    results.hparams_of(os.path.join(directory, "model.ckpt-5"))
    [
        record.get("best") and record["best"]["checkpoint"]
        for record in results.evaluations(directory)
    ]


def _description_seeds() -> List[bytes]:
    shard = {"name": "train-00000-of-00001", "images": 5, "bytes": 9, "sha256": "0" * 64}
    shard.update({"fingerprint": "f", "converted": {"PNG": 2}, "skipped": [{"name": "a/1.jpg"}]})
    splits = {"train": {"images": 5, "bytes": 9, "num_shards": 1, "shards": [shard]}}
    info = {"format_version": 1, "num_classes": 2, "num_label_classes": 3, "splits": splits}
    best = {"checkpoint": "best/model.ckpt-5", "global_step": 5, "top_1_accuracy": 0.5}
    records = [{"kind": "train", "global_step": 5, "hparams": {"lr": 0.1}}]
    records.append({"kind": "eval", "global_step": 5, "metrics": {"loss": 1.0}, "best": best})
    table = rank_table.make("127.0.0.1", [0, 1], ["192.168.100.101", "192.168.100.102"])
    jobs = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "evaluator": ["a:2"]}
    config = {"cluster": jobs, "task": {"type": "worker", "index": 1}}
    texts = [json.dumps(value) for value in (info, records, table, config)]
    texts += ["background\ncat\ndog\n", "n01440764\nn01443537\n"]
    return [bytes([i]) + text.encode() for i, text in enumerate(texts)] + [b"\x051\n2\n"]


def _mutate_description(rng: random.Random, data: bytes) -> bytes:
    try:
        value = json.loads(data[1:].decode("utf-8"))
    except (ValueError, RecursionError):
        return data[:1] + damaged(rng, data[1:])
    if rng.randrange(5) == 0:
        return data[:1] + damaged(rng, data[1:])
    places = list(_places(value))
    if not places:
        return data
    container, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        container.append(container[key])
    elif kind == 1:
        container[rng.choice(["name", "\ud800", "ps", "", "fingerprint"])] = container[key]
    elif kind == 2:
        container[key] = rng.choice([container, *(c[k] for c, k in places)])
        with contextlib.suppress(ValueError):  # It contains itself.
            return data[:1] + json.dumps(value).encode()
        container[key] = None
    else:
        container[key] = rng.choice(
            [
                *[
                    None,
                    True,
                    [],
                    {},
                    "",
                    "x" * 300,
                    "\ud800",
                    "\u00b2",
                    "../x",
                    "0",
                    -1,
                    0.5,
                    1e999,
                ],
                *[10**40, float("nan"), rng.choice(NUMBERS), [[]] * 9, {"name": {}}],
            ]
        )
    text = json.dumps(value)
    if rng.randrange(20) == 0:
        text = text.replace("0", rng.choice(["9" * 5000, "[" * 5000, '{"a":' * 5000]), 1)
    return data[:1] + text.encode()


def _places(value):
    """(container, key) of each value in a value."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
