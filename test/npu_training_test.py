"""Whole trainings on the NPU's stand-in with a tiny network: what must hold from start to end."""

import json
import os
import subprocess

import helpers
import numpy as np
import pytest
from npu_programs import environment, flags, run, write_data, write_rank_table
from npu_stand_in.installed import PATH

from common import curves, results
from common.checkpoints import selection
from common.runtime import tf

_LOSS_SCALE = {"loss_scale", "good_steps", "bad_steps"}


def _variables(directory, step, rank=None):
    """The values of a checkpoint's variables, by name."""
    model = os.path.join(str(directory), "model", *([f"rank_{rank}"] if rank else []))
    reader = tf.train.load_checkpoint(os.path.join(model, f"model.ckpt-{step}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def _moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def _steps(directory):
    """The steps of the checkpoints that are there."""
    paths = selection.in_directory(os.path.join(str(directory), "model"))
    return sorted(int(path.rsplit("-", 1)[1]) for path in paths)


# From start to end -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "release, scale",
    [
        ("older", "dynamic"),
        ("older", "128"),
        ("current", "dynamic"),
        ("newer", "128"),
        ("newer", "none"),
        ("tf26", "dynamic"),
        ("tf26", "128"),
        ("tf26", "none"),
    ],
)
def test_training_with_each_adapter_and_loss_scale(release, scale, tmp_path):
    """The steps, what is in the checkpoint, and who opened sessions."""
    write_data(str(tmp_path / "data"))
    flags = {"mode": "train_and_eval", "train_steps": 3, "num_epochs_per_eval": 2}
    outcome = run(tmp_path, release, loss_scale=scale, save_checkpoints_steps=2, **flags)
    assert outcome.message is None
    records = results.read_results(str(tmp_path / "model"))
    assert [(r["kind"], r["global_step"]) for r in records] == [("train", 3), ("eval", 3)]
    assert _steps(tmp_path) == [0, 2, 3]
    openers = {arguments["opened_by"] for arguments in outcome.arguments("Session")}
    assert openers == {"Estimator"}
    variables = _variables(tmp_path, 3)
    kept = {name: variables[name].dtype for name in _LOSS_SCALE & variables.keys()}
    types = {"loss_scale": np.float32, "good_steps": np.int32, "bad_steps": np.int32}
    assert kept == (types if scale == "dynamic" else {})
    if scale == "dynamic":
        assert (variables["loss_scale"], variables["good_steps"]) == (2.0**32, 3)
    names = ["enable_v1", "import"] if release == "tf26" else ["import"]
    assert [name for name, _ in outcome.calls][: len(names)] == names


@pytest.mark.parametrize("release", ["older", "newer", "tf26"])
def test_the_newest_checkpoints_of_all_rounds_are_kept(release, tmp_path):
    """The adapter's saver, another one in each round, would keep some of each."""
    write_data(str(tmp_path / "data"))
    values = {"mode": "train_and_eval", "save_checkpoints_steps": 1, "keep_checkpoint_max": 3}
    for steps in (4, 6):  # Two steps a round.
        assert run(tmp_path, release, train_steps=steps, **values).message is None
        assert _steps(tmp_path) == [steps - 2, steps - 1, steps]
        state = tf.train.get_checkpoint_state(str(tmp_path / "model"))
        newest_last = [int(p.rsplit("-", 1)[1]) for p in state.all_model_checkpoint_paths]
        assert newest_last == _steps(tmp_path)


@pytest.mark.parametrize("releases", [("newer", "tf26"), ("tf26", "newer")])
def test_one_adapter_goes_on_from_the_others_checkpoint(releases, tmp_path):
    """With the loss scale and its counts, which the step that overflowed made others."""
    write_data(str(tmp_path / "data"))
    variables = {"NPU_STAND_IN_OVERFLOW": "1"}
    assert run(tmp_path, releases[0], variables, train_steps=2).message is None
    before = _variables(tmp_path, 2)
    assert [before[name] for name in ("good_steps", "bad_steps")] == [1, 1]
    variables = {"NPU_STAND_IN_OVERFLOW": "0"}
    assert run(tmp_path, releases[1], variables, train_steps=3).message is None
    after = _variables(tmp_path, 3)
    assert [after[name] for name in ("loss_scale", "good_steps", "bad_steps")] == [2.0**31, 1, 0]
    assert after.keys() == before.keys()


def test_bad_records_open_no_session_on_the_npu(tmp_path):
    write_data(str(tmp_path / "data"), images=8, damaged=(1, 5))
    flags = {"on_bad_record": "skip", "max_bad_fraction": 0.5}
    outcome = run(tmp_path, train_steps=4, **flags)
    assert outcome.message is None
    assert {arguments["opened_by"] for arguments in outcome.arguments("Session")} == {"Estimator"}


def test_curves_of_a_training_are_drawn(tmp_path):
    """From event files, which nobody but the program's own hook has written out by then."""
    write_data(str(tmp_path / "data"))
    assert run(tmp_path, train_steps=2).message is None
    assert os.path.exists(tmp_path / "model" / "curves.png")


# Overflow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "release, scale, loop",
    [("older", "128", 1), ("current", "dynamic", 1), ("newer", "dynamic", 2), ("tf26", "128", 1)],
)
def test_training_in_which_every_step_overflows_ends(release, scale, loop, tmp_path):
    """The global step stands still; nobody would ever reach the last one."""
    write_data(str(tmp_path / "data"))
    outcome = run(
        tmp_path,
        release,
        {"NPU_STAND_IN_OVERFLOW": "0-"},
        loss_scale=scale,
        max_skipped_steps=6,
        npu_iterations_per_loop=loop,
        train_steps=4,
        save_checkpoints_steps=4,
    )
    skipped = 7 if loop == 1 else 8
    assert f"gradients of step 1 overflowed {skipped} times in a row" in outcome.message
    assert "--max_skipped_steps=6" in outcome.message
    assert ("the loss scale is fixed;" in outcome.message) == (scale != "dynamic")
    assert "the loss scale is " in outcome.message
    assert _steps(tmp_path) == [0]


# Loops on the device -----------------------------------------------------------------------------


def test_loops_end_at_the_planned_step_and_can_be_resumed(tmp_path):
    """Steps that were skipped leave a rest that is no whole loop."""
    write_data(str(tmp_path / "data"))
    loops = {"npu_iterations_per_loop": 3, "save_checkpoints_steps": 3}
    outcome = run(tmp_path, "newer", {"NPU_STAND_IN_OVERFLOW": "1,5"}, train_steps=7, **loops)
    assert outcome.message is None
    assert _steps(tmp_path)[-1] == 7
    for steps, loop in ((8, 4), (12, 2)):
        other = {"npu_iterations_per_loop": loop, "save_checkpoints_steps": 4}
        outcome = run(tmp_path, "newer", train_steps=steps, **other)
        assert outcome.message is None
        assert _steps(tmp_path)[-1] == steps


# What does not go together -----------------------------------------------------------------------


def test_another_loss_scale_is_named_when_training_goes_on(tmp_path):
    write_data(str(tmp_path / "data"))
    assert run(tmp_path, accelerator="cpu", train_steps=1).message is None
    message = run(tmp_path, loss_scale="dynamic", train_steps=2).message
    assert "was written with another --loss_scale" in message and "network" not in message
    assert run(tmp_path, loss_scale="128", train_steps=2).message is None


def test_training_in_a_cluster_of_tensorflows_is_one_of_the_ranks(tmp_path):
    """What schedules the process may have set TF_CONFIG, which the adapter would refuse."""
    write_data(str(tmp_path / "data"))
    chief = {"cluster": {"chief": ["localhost:1"]}, "task": {"type": "chief", "index": 0}}
    variables = {"TF_CONFIG": json.dumps(chief)}
    assert run(tmp_path, "newer", variables, train_steps=1).message is None
    assert _steps(tmp_path) == [0, 1]


# Several ranks -----------------------------------------------------------------------------------


def test_rank_that_hccl_gave_trains_in_its_directory(tmp_path):
    """Its session is the only one on the NPU beside the Estimator's."""
    write_data(str(tmp_path / "data"))
    names = ("IP", "PORT", "DEVICE")
    variables = {f"CM_CHIEF_{name}": value for name, value in zip(names, ("10.0.0.1", "1", "0"))}
    variables.update(CM_WORKER_SIZE="2", CM_WORKER_IP="10.0.0.1", ASCEND_DEVICE_ID="1")
    outcome = run(tmp_path, "newer", variables, train_steps=2)
    assert outcome.message is None
    openers = {arguments["opened_by"] for arguments in outcome.arguments("Session")}
    assert openers == {"Estimator", "npu.py:_rank_from_hccl"}
    assert _variables(tmp_path, 2, rank=1)["global_step"] == 2
    (wrapped,) = outcome.arguments("NPULossScaleOptimizer")
    assert wrapped["is_distributed"] and wrapped["optimizer"] == "NPUDistributedOptimizer"


def test_rank_goes_on_from_the_checkpoint_of_rank_0(tmp_path):
    """Where only one of them could save its last one."""
    write_data(str(tmp_path / "data"))
    table = write_rank_table(tmp_path / "table.json", 2)
    ranks = [{"RANK_SIZE": "2", "RANK_ID": str(i), "RANK_TABLE_FILE": table} for i in range(2)]
    assert run(tmp_path, "newer", ranks[1], train_steps=3).message is None
    message = run(tmp_path, "newer", ranks[1], train_steps=4).message
    assert "is at step 3, but" in message and "has no checkpoint" in message
    assert run(tmp_path, "newer", ranks[0], train_steps=2).message is None
    assert run(tmp_path, "newer", ranks[1], train_steps=4).message is None
    assert not _moved(_variables(tmp_path, 2), _variables(tmp_path, 2, rank=1))
    assert not (tmp_path / "model" / "rank_1" / "model.ckpt-3.index").exists()
    assert _variables(tmp_path, 4, rank=1)["global_step"] == 4


@pytest.mark.xdist_group("npu_ranks")
def test_ranks_skip_a_step_together_and_end_with_the_same_weights(tmp_path):
    """Gradients, float status and initial weights are exchanged; one rank's status overflows.

    The ranks' seeds differ, and so do their weights until rank 0's are there.
    """
    write_data(str(tmp_path / "data"))
    (tmp_path / "hccl").mkdir()
    table = write_rank_table(tmp_path / "table.json", 2)
    ranks = []
    for rank in range(2):
        variables = environment(
            f"{PATH}:{helpers.ROOT}",
            RANK_SIZE="2",
            RANK_ID=str(rank),
            RANK_TABLE_FILE=table,
            NPU_STAND_IN_HCCL=str(tmp_path / "hccl"),
            NPU_STAND_IN_RECORD=str(tmp_path / f"calls_{rank}"),
            **({"NPU_STAND_IN_OVERFLOW": "1"} if rank else {}),
        )
        values = flags(
            str(tmp_path),
            "train_and_eval",
            train_steps=4,
            num_epochs_per_eval=3,
        )
        command = helpers.command("test/npu_programs.py", *values)
        ranks.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE))
    for process in ranks:
        log = process.communicate()[1].decode()
        assert process.returncode == 0, log
    trained = [_variables(tmp_path, 4, rank) for rank in range(2)]
    weights = {name for name in trained[0] if name.endswith(("/weights", "/biases", "gamma"))}
    assert len(weights) == 3 and not weights & _moved(*trained)
    assert [values["bad_steps"] for values in trained] == [1, 1]
    for rank in range(2):
        with open(tmp_path / f"calls_{rank}") as f:
            calls = [json.loads(line) for line in f]
        openers = {arguments["opened_by"] for name, arguments in calls if name == "Session"}
        assert openers == {"Estimator"}
    # The curves show both ranks' images.
    model_dir = str(tmp_path / "model")
    shown = curves.read_scalars(os.path.join(model_dir, "eval"))
    for name in ("loss", "top_1_accuracy"):
        points = {e["global_step"]: e["metrics"][name] for e in results.evaluations(model_dir)}
        assert points and dict(shown[name]) == pytest.approx(points)
