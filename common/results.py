"""Machine-readable results: `results.json` in the model directory."""

import datetime
import json
import os
import platform
from typing import Any, Dict, List

import numpy as np

from common import files, limits
from common.errors import UserError
from common.runtime import tf

FILE_NAME = "results.json"
# At least this part of the images are all of them: a few may be bad records.
WHOLE = 0.9


def append_result(model_dir: str, kind: str, record: Dict[str, Any]) -> Dict[str, Any]:
    """Adds a record to the list in `results.json`; the file is replaced as a whole.

    Args:
        model_dir: directory of the file, which is created if it does not exist.
        kind: 'train', 'eval' or 'predict'.
        record: values that JSON can represent; numpy scalars are converted.

    Returns:
        The record as it was written.
    """
    path = os.path.join(model_dir, FILE_NAME)
    files.make_directory(model_dir)
    with files.locked(model_dir):
        records = read_results(model_dir)
        records.append({"kind": kind, "time": _now(), **record, "versions": versions()})
        files.write_text(path, json.dumps(records, indent=1, default=_plain) + "\n")
        return json.loads(json.dumps(records[-1], default=_plain))


def read_results(model_dir: str) -> List[Dict[str, Any]]:
    """Returns the records of `results.json`, oldest first; none if there is no file."""
    path = os.path.join(model_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return []
    try:
        records = limits.read_json(path)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}: move it away to go on.") from error
    if not isinstance(records, list) or not all(map(_is_result, records)):
        raise UserError(f"{path} holds no list of results: move it away to go on.")
    return records


def _is_result(record: Any) -> bool:
    """Whether what is read from a record, if it is there, has the right types."""
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return False
    best = record.get("best")
    return (
        isinstance(record.get("global_step", 0), int)
        and isinstance(record.get("hparams", {}), dict)
        and isinstance(record.get("metrics", {}), dict)
        and isinstance(record.get("metrics", {}).get("images", 0), int)
        and (best is None or _is_best(best))
    )


def _is_best(best: Any) -> bool:
    return (
        isinstance(best, dict)
        and isinstance(best.get("checkpoint"), str)
        and isinstance(best.get("top_1_accuracy"), (int, float))
        and isinstance(best.get("images", 0), int)
        and isinstance(best.get("data", ""), str)
    )


def is_evaluated(model_dir: str, step: int) -> bool:
    """Whether the checkpoint of a step has been evaluated."""
    found = comparable(read_results(model_dir))
    return any(record.get("global_step") == step for record in found)


def comparable(records: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Those that are evaluations on the data and the images by which best/ was chosen last."""
    found = [record for record in records if record["kind"] == "eval"]
    best = (found[-1].get("best") if found else None) or {}
    images, data = best.get("images", 0), best.get("data")
    return [
        record
        for record in found
        if data in (None, record.get("data", data))
        and record.get("metrics", {}).get("images", images) >= WHOLE * images
    ]


def evaluations(model_dir: str) -> List[Dict[str, Any]]:
    """Returns the records of evaluations, oldest first."""
    return [record for record in read_results(model_dir) if record["kind"] == "eval"]


def hparams_of(checkpoint: str) -> Dict[str, Any]:
    """Returns the hyper-parameters that a checkpoint was trained with; {} without a results.json.

    Those of an evaluation, which may be others, if there is none of the training.

    The file is in the checkpoint's directory, or above it for a checkpoint in best/.
    """
    directory = os.path.dirname(checkpoint)
    records = read_results(directory) or read_results(os.path.dirname(directory))
    records = [record for record in records if "hparams" in record]
    trainings = [record for record in records if record["kind"] == "train"]
    found = trainings or records
    return found[-1]["hparams"] if found else {}


def versions() -> Dict[str, str]:
    return {
        "python": platform.python_version(),
        "tensorflow": tf.VERSION,
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _plain(value):
    if isinstance(value, np.floating):
        return float(str(value))  # The digits that the log shows, not those of a double.
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Cannot write {value!r} to JSON.")
