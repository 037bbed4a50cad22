"""The best checkpoint: which one it is, and that best/ always holds a whole one."""

import os
import threading

import numpy as np
import pytest
from helpers import checkpoint_file, checkpoint_path, save_checkpoints

from common import files, results
from common.checkpoints import best, reading, storage
from common.errors import UserError
from common.runtime import tf


def test_best_of_all_evaluations_is_kept(tmp_path):
    directory = str(tmp_path)
    kept = []
    for step, accuracy in ((10, 0.5), (20, 0.4), (30, 0.6), (40, 0.7)):
        save_checkpoints(directory, [step])
        path = checkpoint_path(directory, step)
        if step == 40:
            tf.train.remove_checkpoint(path)  # By a training that goes on meanwhile.
        found = best.keep_if_best(directory, path, best.Evaluation(step, accuracy, 50, "data"))
        results.append_result(directory, "eval", {"global_step": step, "best": found})
        assert os.path.exists(f"{directory}/{found['checkpoint']}.index")
        kept.append((found["global_step"], found["top_1_accuracy"]))
    assert kept == [(10, 0.5), (10, 0.5), (30, 0.6), (30, 0.6)]
    assert results.is_evaluated(directory, 40) and not results.is_evaluated(directory, 50)


def test_equal_accuracy_replaces_nothing(model_dir):
    accuracy = np.float32(0.8)  # As TensorFlow computes it; results.json has 0.8.
    for step in (10, 20):
        path = checkpoint_path(model_dir, step)
        found = best.keep_if_best(model_dir, path, best.Evaluation(step, accuracy, 50, "data"))
        results.append_result(model_dir, "eval", {"global_step": step, "best": found})
    assert results.evaluations(model_dir)[-1]["best"]["global_step"] == 10


def test_accuracy_on_a_part_of_the_images_does_not_count(model_dir):
    kept = []
    for step, accuracy, images in [(10, 0.9, 5), (20, 0.6, 50), (10, 0.8, 5), (30, 0.7, 49)]:
        evaluation = best.Evaluation(step, accuracy, images, "data")
        found = best.keep_if_best(model_dir, checkpoint_path(model_dir, step), evaluation)
        record = {"global_step": step, "metrics": {"images": images}, "best": found}
        results.append_result(model_dir, "eval", record)
        kept.append((found["global_step"], found["images"]))
    assert kept == [(10, 5), (20, 50), (20, 50), (30, 49)]
    # Nor is a step evaluated if only a part of the images was.
    assert [results.is_evaluated(model_dir, step) for step in (10, 20, 30)] == [False, True, True]


def test_other_data_does_not_decide_unless_the_training_has_changed_its_data(model_dir):
    kept = []
    for step, accuracy, data, is_trainings in [
        *[(10, 0.6, "old", True), (20, 0.9, "new", False), (30, 0.5, "old", True)],
        *[(20, 0.2, "new", True), (30, 0.1, "new", True)],
    ]:
        evaluation = best.Evaluation(step, accuracy, 50, data)
        path = checkpoint_path(model_dir, step)
        found = best.keep_if_best(model_dir, path, evaluation, is_trainings)
        record = {"global_step": step, "data": data, "metrics": {"step": step}, "best": found}
        results.append_result(model_dir, "eval", record)
        kept.append((found["global_step"], found["data"]))
    assert kept == [(10, "old"), (10, "old"), (10, "old"), (20, "new"), (20, "new")]
    comparable = results.comparable(results.read_results(model_dir))
    assert [record["global_step"] for record in comparable] == [20, 20, 30]


def _best(model_dir):
    """The checkpoint in best/, as TensorFlow finds it."""
    return tf.train.latest_checkpoint(os.path.join(model_dir, best.DIRECTORY))


def test_best_is_replaced_as_a_whole(model_dir, monkeypatch):
    directory = os.path.join(model_dir, best.DIRECTORY)
    assert _best(model_dir) is None
    best.replace(model_dir, checkpoint_path(model_dir, 10))
    assert _best(model_dir) == checkpoint_path(directory, 10)
    copy, replace = (tf.io.gfile, "copy"), (os, "replace")
    for function, call in [(copy, 0), (copy, 1), (replace, 0), (replace, 1), (replace, 2)]:
        _fail_at(monkeypatch, *function, call)
        with pytest.raises(OSError, match="injected"):
            best.replace(model_dir, checkpoint_path(model_dir, 20))
        monkeypatch.undo()
        assert _best(model_dir) == checkpoint_path(directory, 10)
        assert reading.problem(_best(model_dir)) is None
    _fail_at(monkeypatch, os, "remove", 0)
    with pytest.raises(OSError, match="injected"):
        best.replace(model_dir, checkpoint_path(model_dir, 20))
    monkeypatch.undo()
    assert _best(model_dir) == checkpoint_path(directory, 20)
    os.mkdir(os.path.join(directory, "a_users_export"))
    best.replace(model_dir, checkpoint_path(model_dir, 30))
    assert sorted(os.listdir(directory)) == [
        *["a_users_export", "checkpoint"],
        *["model.ckpt-30.data-00000-of-00001", "model.ckpt-30.index"],
    ]
    assert reading.problem(_best(model_dir)) is None


@pytest.mark.parametrize("kinds", [("index", "data"), ("index",)])
def test_best_stays_where_its_successor_was_just_deleted(model_dir, kinds):
    best.replace(model_dir, checkpoint_path(model_dir, 10))
    for kind in kinds:
        os.remove(checkpoint_file(model_dir, 20, kind))
    with pytest.raises(UserError, match=r"model\.ckpt-20 cannot be kept in .*: A file of it"):
        best.replace(model_dir, checkpoint_path(model_dir, 20))
    kept = _best(model_dir)
    assert kept == checkpoint_path(os.path.join(model_dir, best.DIRECTORY), 10)
    assert reading.problem(kept) is None


def test_what_an_evaluator_is_writing_is_no_leftover(model_dir, monkeypatch):
    best.replace(model_dir, checkpoint_path(model_dir, 10))
    directory = os.path.join(model_dir, best.DIRECTORY)
    half = files.temporary_path(checkpoint_path(directory, 20) + ".index")
    trainer = threading.Thread(target=storage.repair, args=(model_dir, 5))
    with files.locked(directory):  # As the evaluator has it while it copies.
        open(half, "w").close()
        waits, flock = threading.Event(), files.fcntl.flock

        def tell(*args):
            waits.set()
            return flock(*args)

        monkeypatch.setattr(files.fcntl, "flock", tell)
        trainer.start()
        assert waits.wait(600) and os.path.exists(half)
    trainer.join()
    assert not os.path.exists(half)


def _fail_at(monkeypatch, module, function, call):
    original, calls = getattr(module, function), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > call:
            raise OSError("injected")
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, failing)
