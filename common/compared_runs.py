"""Reads what the model directories of several trainings tell about them."""

import itertools
import os
import re
import statistics
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from common import files, hparams_tab, places, results
from common.errors import UserError
from common.runtime import tf

_DEVICE = ("accelerator", "num_devices", "precision_mode")


class ComparedRun(NamedTuple):
    """A training, as results.json tells of it.

    Attributes:
        directory: the model directory.
        name: the end of its path that no other run has.
        settings: hyper-parameters, device and TensorFlow's release; {} if they are not recorded.
        best: metrics of the evaluation with the highest top-1 accuracy, and its step; or None.
        last: those of the evaluation of the last step; or None.
        steps: the last step of the training; None if no round of it has ended.
        images_per_second: the median of the rounds' medians, or None.
        seconds: of training, by its seconds per step; None if it was not measured.
    """

    directory: str
    name: str
    settings: Dict[str, Any]
    best: Optional[Dict[str, float]]
    last: Optional[Dict[str, float]]
    steps: Optional[int]
    images_per_second: Optional[float]
    seconds: Optional[float]


def read(directories: Sequence[str]) -> List[ComparedRun]:
    """Reads runs, which may be given as directories of runs; each is read once.

    Raises:
        UserError: a path is no directory, or there is no run in it, or a results.json is damaged.
    """
    found = {}
    for directory in directories:
        for path in _runs_in(directory):
            if not files.is_remote(path):
                path = os.path.abspath(path)
            found.setdefault(os.path.realpath(path), path)
    paths = list(found.values())
    names = map(files.printable, unique_ends(paths))
    return [_read_run(path, name) for path, name in zip(paths, names)]


def _runs_in(directory: str) -> List[str]:
    if not tf.io.gfile.isdir(directory):
        raise UserError(f"{directory} is not a directory.")
    if _is_run(directory):
        return [directory]
    children = [os.path.join(directory, name) for name in files.list_directory(directory)]
    runs = sorted(filter(_is_run, children), key=_natural_order)
    for run in runs:
        problem = places.problem(run)
        if problem:
            raise UserError(f"{files.printable(run)}: {problem}")
    if not runs:
        raise UserError(
            f"{directory} is no run, and has none in it: there is no {results.FILE_NAME} and no "
            "event file."
        )
    return runs


def _is_run(path: str) -> bool:
    if not tf.io.gfile.isdir(os.fsencode(path)):  # Its name may not be UTF-8.
        return False
    names = files.list_directory(path)
    return any(name == results.FILE_NAME or "tfevents" in name for name in names)


def _natural_order(path: str) -> list:
    """A key that sorts seed_2 before seed_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]


def _read_run(directory: str, name: str) -> ComparedRun:
    try:
        records = results.read_results(directory)
        trainings = [record for record in records if record["kind"] == "train"]
        evaluations = [
            {"step": record["global_step"], **record["metrics"]}
            for record in results.comparable(records)
        ]
        steps = [record["global_step"] for record in trainings]
        speeds = [r["images_per_second"]["median"] for r in trainings if r["images_per_second"]]
        return ComparedRun(
            directory,
            name,
            _settings(trainings or records) or hparams_tab.read(directory),
            max(evaluations, key=lambda e: e["top_1_accuracy"], default=None),
            max(reversed(evaluations), key=lambda e: e["step"], default=None),
            max(steps, default=None),
            statistics.median(speeds) if speeds else None,
            _seconds(trainings),
        )
    except (KeyError, TypeError, AttributeError) as error:
        path = os.path.join(directory, results.FILE_NAME)
        raise UserError(
            f"{path} holds a record that is no result of a run ({error!r}): move it away to go on."
        ) from error


def _settings(records: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Hyper-parameters and device of the last record that tells of them, without None."""
    for record in reversed(records):
        if "hparams" in record:
            device = {name: record.get(name) for name in _DEVICE}
            release = record.get("versions", {}).get("tensorflow")
            settings = {**record["hparams"], **device, "tensorflow": release}
            return {name: value for name, value in settings.items() if value is not None}
    return {}


def _seconds(trainings: List[Dict[str, Any]]) -> Optional[float]:
    """Seconds of all rounds together; None if none was measured.

    Rounds of one or two steps are too short to be; their steps count as those of the others.
    """
    measured = [r["seconds_per_step"] for r in trainings if r.get("seconds_per_step")]
    if not measured:
        return None
    total, step = 0.0, 0
    for record in trainings:
        before, step = step, record["global_step"]
        # Fewer steps than before are those of a training that started from the beginning.
        steps = step - before if step > before else step
        total += (record.get("seconds_per_step") or statistics.median(measured)) * steps
    return total


def differing(runs: Sequence[ComparedRun]) -> List[str]:
    """Names of the settings that differ among the runs that have recorded them."""
    recorded = [run.settings for run in runs if run.settings]
    names = dict.fromkeys(itertools.chain(*recorded))
    return [name for name in names if any(s.get(name) != recorded[0].get(name) for s in recorded)]


def unique_ends(paths: Sequence[str]) -> List[str]:
    """The shortest ends of different paths, in whole components, which are all different."""
    parts = [path.strip("/").split("/") for path in paths]
    lengths = [1] * len(paths)
    while True:
        ends = ["/".join(part[-length:]) for part, length in zip(parts, lengths)]
        clashing = [i for i, end in enumerate(ends) if ends.count(end) > 1]
        if not clashing:
            return ends
        for i in clashing:
            lengths[i] += 1


def shorten(texts: Sequence[str], width: int) -> List[str]:
    """Replaces the middles of long texts by "..."; different texts stay different."""
    for size in range(width, max(map(len, texts)) + 1):
        short = [_shorten(text, size) for text in texts]
        if len(set(short)) == len(set(texts)):
            return short
    return list(texts)


def _shorten(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 3) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"
