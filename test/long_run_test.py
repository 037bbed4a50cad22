"""A long training as its users see it: signals, damage, full disks, vanished data, bad numbers."""

import contextlib
import glob
import os
import re
import resource
import shutil
import signal
import subprocess
import time

import helpers
import numpy as np
import pytest

import run
import settings
from common import results
from common.checkpoints import reading, selection
from common.hooks import interruption

_SMALL = [
    *helpers.flags(helpers.TINY),
    *["--train_batch_size=4", "--eval_batch_size=4", "--accelerator=cpu"],
    *["--num_label_classes=5", "--num_eval_images=8", "--synthetic_data", "--random_seed=1"],
    *["--lr=0.01", "--lr_decay_method=constant", "--save_checkpoints_steps=20"],
]

pytestmark = pytest.mark.xdist_group("long_run")


def _start(*flags, **options):
    command = helpers.command("amoeba_net.py", *_SMALL, *flags)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def _end(process):
    """(exit status, what was printed) of a process, which ends by itself."""
    log = process.communicate(timeout=600)[0].decode()
    assert "Traceback" not in log
    return process.returncode, log


def _wait_for_checkpoint(process, model_dir):
    while not glob.glob(os.path.join(model_dir, "model.ckpt-*.index")):
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.1)


def test_second_trainer_then_signal_then_damage_then_the_end(tmp_path):
    model_dir = str(tmp_path)
    training = _start("--mode=train", f"--model_dir={model_dir}", "--train_steps=1000000")
    _wait_for_checkpoint(training, model_dir)

    status, log = _end(_start("--mode=train", f"--model_dir={model_dir}"))
    assert status == 1
    assert f"another training writes to {model_dir}: process {training.pid} on " in log

    training.send_signal(signal.SIGTERM)
    status, log = _end(training)
    assert status == interruption.EXIT_STATUS
    stopped = int(re.search(r"Stopped by SIGTERM at step (\d+) of 1000000", log).group(1))
    newest = os.path.join(model_dir, f"model.ckpt-{stopped}")
    assert selection.latest(model_dir) == newest and reading.global_step(newest) == stopped
    assert results.read_results(model_dir)[-1]["global_step"] == stopped

    helpers.truncate(f"{newest}.data-00000-of-00001")
    helpers.truncate(os.path.join(model_dir, "checkpoint"))
    before = (stopped - 1) // 20 * 20
    status, log = _end(
        _start(
            "--mode=train_and_eval",
            f"--model_dir={model_dir}",
            f"--train_steps={stopped + 20}",
            "--keep_checkpoint_max=2",
            "--log_steps=10",
        )
    )
    assert status == 0, log
    whole = os.path.join(model_dir, f"model.ckpt-{before}")
    assert f"Taking the newest whole checkpoint, {whole}." in log
    assert f"Restoring parameters from {whole}\n" in log
    assert reading.global_step(selection.latest(model_dir)) == stopped + 20
    kept = glob.glob(os.path.join(model_dir, "model.ckpt-*.index"))
    assert len(kept) == 2
    assert re.search(rf"Step {stopped + 20} of {stopped + 20}: loss \S+, .* 0:00:00 left", log)
    assert os.path.getsize(os.path.join(model_dir, "curves.png")) > 10_000
    # The best one survives the deletion of all others.
    best = results.read_results(model_dir)[-1]["best"]
    assert best["checkpoint"] == f"best/model.ckpt-{stopped + 20}"
    assert reading.global_step(os.path.join(model_dir, best["checkpoint"])) == stopped + 20


def test_full_disk(tmp_path):
    """A limit on the size of files stands for the disk's."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    process = _start(
        "--mode=train", f"--model_dir={tmp_path}", "--train_steps=40", preexec_fn=limit
    )
    status, log = _end(process)
    assert status == 1
    assert f"amoeba_net.py: Writing failed: File too large ({tmp_path}). There is no ch" in log
    assert not glob.glob(str(tmp_path / "*_temp_*"))


def test_vanished_model_dir(tmp_path):
    model_dir = str(tmp_path / "model")
    training = _start("--mode=train", f"--model_dir={model_dir}", "--train_steps=1000000")
    _wait_for_checkpoint(training, model_dir)
    os.rename(model_dir, str(tmp_path / "elsewhere"))  # At once, as nothing else removes it.
    status, log = _end(training)
    assert status == 1
    assert f"The model directory {model_dir} has vanished while it was in use." in log


def test_model_dir_that_becomes_read_only(tmp_path):
    model_dir = str(tmp_path)
    training = _start("--mode=train", f"--model_dir={model_dir}", "--train_steps=1000000")
    _wait_for_checkpoint(training, model_dir)
    with contextlib.ExitStack() as stack:
        stack.callback(training.kill)
        for options in (["--bind", model_dir, model_dir], ["-o", "remount,bind,ro", model_dir]):
            if subprocess.run(["mount", *options], stderr=subprocess.DEVNULL).returncode:
                pytest.skip("Mounting is not allowed.")
            stack.callback(subprocess.run, ["umount", "--lazy", model_dir])
        status, log = _end(training)
        newest = selection.latest(model_dir)
        assert status == 1
        assert log.endswith(
            f"amoeba_net.py: Writing failed: Read-only file system ({model_dir}). The last whole "
            f"checkpoint is {newest}. Make it writable, or name another --model_dir and start "
            "again.\n"
        )
        assert not reading.problem(newest)


def test_vanished_data(tmp_path):
    """The files that are open can be read to their end; there is no next epoch."""
    data_dir, model_dir = tmp_path / "data", str(tmp_path / "model")
    images, labels = helpers.digits_and_photos()
    helpers.write_shards(data_dir, "train", [helpers.image_examples(images[:40], labels)])
    flags = ["--nosynthetic_data", f"--data_dir={data_dir}", "--num_label_classes=11"]
    flags += ["--lr=1e-6"]  # However long it takes until the data vanish, the loss stays finite.
    training = _start("--mode=train", f"--model_dir={model_dir}", "--train_steps=1000000", *flags)
    _wait_for_checkpoint(training, model_dir)
    shutil.rmtree(data_dir)
    status, log = _end(training)
    assert status == 1
    assert re.search(rf"amoeba_net\.py: {data_dir}/train-00000-of-00001: .*No such file", log), log
    # What was learnt until then is saved.
    saved = re.findall(r"Saving checkpoints for (\d+) into", log)
    assert selection.latest(model_dir) == f"{model_dir}/model.ckpt-{saved[-1]}"


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_loss_that_is_not_finite(on_nan, tmp_path):
    flags = ["--lr=1e20", f"--on_nan={on_nan}", "--max_nan_steps=3", "--save_checkpoints_steps=1"]
    status, log = _end(
        _start("--mode=train", f"--model_dir={tmp_path}", "--train_steps=40", *flags)
    )
    assert status == 1
    found = re.search(
        r"amoeba_net\.py: .*not finite.* The last good checkpoint is (\S+)\. Lower --lr", log
    )
    assert found, log
    reader = reading.open_checkpoint(found.group(1))
    for name in reader.get_variable_to_shape_map():
        assert np.isfinite(reader.get_tensor(name)).all(), name
    if on_nan == "skip":
        assert "4 in a row are too many." in log
        assert log.count("It is skipped") == 3
        assert re.search(r"step \d+: loss \S+, learning rate 1e\+20, softmax_loss \S+, reg", log)


def test_checkpoint_that_is_deleted_under_its_evaluation(tmp_path, monkeypatch, log):
    whole = helpers.checkpoint_path(helpers.save_checkpoints(str(tmp_path), [7]), 7)
    deleted = str(tmp_path / "model.ckpt-6")
    monkeypatch.setattr(selection, "wait_for_new", lambda *arguments: iter([deleted, whole]))
    evaluated = []
    one_run = run.Run.__new__(run.Run)
    one_run.options = settings.RunOptions()
    one_run.model_dir, one_run.train_steps, one_run.evaluate = str(tmp_path), 7, evaluated.append
    one_run.eval_mode()
    assert evaluated == [whole]
    assert f"{deleted} was deleted during its evaluation: taking the next one." in log.text
