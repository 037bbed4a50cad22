"""What a run does in which mode."""

from unittest import mock

import pytest

import amoeba_net_model
import run
from common.devices.cpu import Cpu
from common.distribution import cluster, peers
from common.errors import UserError
from common.hooks import interruption
from settings import RunOptions

_ADDRESSES = '"cluster": {"worker": ["a:1", "b:1"], "evaluator": ["c:1"]}'


def _device(job, index):
    task = f'"task": {{"type": "{job}", "index": {index}}}'
    return Cpu(cluster=cluster.parse(f"{{{_ADDRESSES}, {task}}}"))


@pytest.mark.parametrize(
    "device, mode, expected",
    [
        (Cpu, "train", ["train", "export"]),
        (Cpu, "train_and_eval", ["train_and_eval_mode", "export"]),
        (Cpu, "eval", ["eval_mode", "export"]),
        (Cpu, "predict", ["predict_mode", "export"]),
        (Cpu, "export", ["export"]),
        (lambda: _device("worker", 0), "train", ["train", "export"]),
        (lambda: _device("worker", 1), "train", ["train"]),
        (lambda: _device("worker", 1), "predict", []),
        (lambda: _device("evaluator", 0), "train_and_eval", ["eval_mode"]),
        (lambda: _device("evaluator", 0), "eval", ["eval_mode", "export"]),
    ],
)
def test_modes(device, mode, expected, tmp_path):
    options = RunOptions(mode=mode, model_dir=str(tmp_path), export_dir=str(tmp_path / "export"))
    with mock.patch.object(run, "Run") as runs:
        run.run_mode(amoeba_net_model.default_hparams(), device(), options)
    assert [call[0] for call in runs.return_value.method_calls] == expected
    if expected:
        assert runs.call_args[0][2].mode == ("eval" if "eval_mode" in expected else mode)


def test_signal_before_the_first_step_that_counts():
    """The training has saved nothing, since all steps so far were skipped."""
    one = mock.MagicMock(hparams=amoeba_net_model.default_hparams(), options=RunOptions())
    one.last_checkpoint.return_value = None
    one.stopper.name, one.current_step.return_value, one.train_steps = "SIGTERM", 0, 10
    with pytest.raises(interruption.Interrupted, match="by SIGTERM before the first step"):
        run.Run.train(one, 10)
    one.device.train.assert_called_once()
    one.stopper.name = None  # A worker that does not see the chief's checkpoint has ended well.
    run.Run.train(one, 10)


def test_early_end_of_processes_that_train_together():
    """Bad records of this process are the reason if there are any; else another process's."""
    one = mock.MagicMock()
    run.Run.check_end(one, 10, 5, True)  # By a signal.
    one.stopper.ended_training = False
    run.Run.check_end(one, 10, 10, True)
    run.Run.check_end(one, 10, 5, False)
    with pytest.raises(peers.LostPeerError, match="ended at step 5 of 10"):
        run.Run.check_end(one, 10, 5, True)
    one.train_input.check_records.side_effect = UserError("bad")
    run.Run.check_end(one, 10, 10, True)  # Of a batch that nobody needed any more.
    with pytest.raises(UserError, match="bad"):
        run.Run.check_end(one, 10, 5, False)


def test_images_to_classify():
    options = RunOptions(mode="predict", image_paths=["a.png"])
    with mock.patch.object(run, "Run") as runs:
        run.run_mode(amoeba_net_model.default_hparams(), Cpu(), options)
    assert [call[0] for call in runs.return_value.method_calls] == ["classify_mode"]
