"""results.json: no record is lost, whoever writes."""

import multiprocessing
import os

import pytest
import tensorflow.compat.v1 as tf

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


def test_best_of_all_evaluations_is_kept(tmp_path):
    directory = str(tmp_path)
    kept = []
    for step, accuracy in ((10, 0.5), (20, 0.4), (30, 0.6), (40, 0.7)):
        with tf.Graph().as_default(), tf.Session() as session:
            session.run(tf.train.get_or_create_global_step().assign(step))
            path = tf.train.Saver().save(session, f"{directory}/model.ckpt", global_step=step)
        if step == 40:
            tf.train.remove_checkpoint(path)  # By a training that goes on meanwhile.
        best = results.keep_best(directory, path, step, accuracy)
        results.append_result(directory, "eval", {"global_step": step, "best": best})
        assert os.path.exists(f"{directory}/{best['checkpoint']}.index")
        kept.append((best["global_step"], best["top_1_accuracy"]))
    assert kept == [(10, 0.5), (10, 0.5), (30, 0.6), (30, 0.6)]
    assert results.is_evaluated(directory, 40) and not results.is_evaluated(directory, 50)


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_file_that_is_no_list_of_results(text, tmp_path):
    (tmp_path / results.FILE_NAME).write_text(text)
    with pytest.raises(UserError, match="move it away"):
        results.read_results(str(tmp_path))
