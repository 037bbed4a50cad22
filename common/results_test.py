"""results.json: no record is lost, whoever writes."""

import multiprocessing

import pytest

from common import results
from common.errors import UserError


def _append(directory, process):
    for i in range(20):
        results.append_result(directory, "eval", {"process": process, "i": i})


def test_processes_that_write_at_the_same_time_lose_no_record(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(str(tmp_path), n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = results.read_results(str(tmp_path))
    found = sorted((record["process"], record["i"]) for record in records)
    assert found == [(process, i) for process in range(3) for i in range(20)]


@pytest.mark.parametrize(
    "text",
    [
        *["{", "{}", "[5]", "[{}]", "[" * 100_000, '[{"kind": "eval", "global_step": "5"}]'],
        *['[{"kind": "eval", "best": []}]', '[{"kind": "train", "hparams": 5}]'],
    ],
)
def test_a_file_that_is_no_list_of_results(text, tmp_path):
    (tmp_path / results.FILE_NAME).write_text(text)
    with pytest.raises(UserError, match="move it away"):
        results.read_results(str(tmp_path))


def test_a_directory_that_is_gone_is_made_again(tmp_path):
    results.append_result(str(tmp_path / "model"), "predict", {})
    assert [r["kind"] for r in results.read_results(str(tmp_path / "model"))] == ["predict"]


def test_hyper_parameters_are_those_of_the_training(tmp_path):
    """An evaluation may have been done with others."""
    checkpoint = str(tmp_path / "model.ckpt-5")
    assert results.hparams_of(checkpoint) == {}
    results.append_result(str(tmp_path), "eval", {"hparams": {"image_size": 96}})
    assert results.hparams_of(checkpoint) == {"image_size": 96}
    results.append_result(str(tmp_path), "train", {"hparams": {"image_size": 64}})
    results.append_result(str(tmp_path), "eval", {"hparams": {"image_size": 96}})
    assert results.hparams_of(checkpoint) == {"image_size": 64}


def test_evaluations_are_comparable_where_older_ones_do_not_tell_their_data():
    older = {"kind": "eval", "global_step": 1, "metrics": {"images": 50}}
    newer = {**older, "global_step": 2, "data": "1 files of 5 bytes"}
    for best in ({"images": 50}, {}, None):
        records = [{**older, "best": best}, {**newer, "best": best}]
        assert results.comparable(records) == records
