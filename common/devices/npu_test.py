"""The NPU with stand-ins for its adapters: the run config, the optimizer, ranks."""

import importlib
import json
import os
import sys

import pytest
from npu_stand_in.installed import installed

from common import curves
from common.devices import choosing, options, rank_table
from common.devices.cpu import CpuSession
from common.devices.options import Options
from common.errors import UserError
from common.runtime import tf


def _model_fn(features, labels, mode, params):
    raise AssertionError("No graph is to be built.")


def _estimator(directory, options, **kwargs):
    device = choosing.choose("npu", options)
    estimator = device.estimator(_model_fn, str(directory), save_checkpoints_steps=100, **kwargs)
    assert type(estimator).__name__ == "NPUEstimator"
    return estimator


def _run_config(calls, directory, options, **kwargs):
    """The keywords the run config got, for an estimator with these options."""
    _estimator(directory, options, **kwargs)
    return [arguments for name, arguments in calls if name == "NPURunConfig"][-1]


def _openers(calls):
    """Who opened sessions on the NPU."""
    return [arguments["opened_by"] for name, arguments in calls if name == "Session"]


@pytest.fixture
def table(tmp_path):
    """Writes a rank table; returns its path."""

    def write(devices, **changes):
        ips = [f"192.168.100.{101 + i}" for i in range(devices)]
        path = tmp_path / "rank_table.json"
        contents = rank_table.make("127.0.0.1", list(range(devices)), ips)
        path.write_text(json.dumps({**contents, **changes}))
        return str(path)

    return write


# The run config ----------------------------------------------------------------------------------

_FIXED = {
    "save_summary_steps": 0,
    "save_checkpoints_steps": 100,
    "log_step_count_steps": 100,
    "keep_checkpoint_max": 5,
    "enable_data_pre_proc": True,
    "mix_compile_mode": False,
    "hcom_parallel": False,
}


@pytest.mark.parametrize("release", ["older", "current", "newer"])
def test_run_config_without_flags(release, tmp_path):
    with installed(release) as calls:
        config = dict(_run_config(calls, tmp_path, Options(), random_seed=7))
        session_config = config.pop("session_config")
        assert session_config == tf.ConfigProto(allow_soft_placement=True)
        assert config == {
            **_FIXED,
            "model_dir": str(tmp_path),
            "tf_random_seed": 7,
            "precision_mode": "allow_fp32_to_fp16",
            "iterations_per_loop": 1,
        }


def test_run_config_with_every_flag(tmp_path):
    switches = tmp_path / "switches.json"
    switches.write_text("{}")
    options = Options(
        precision_mode="allow_mix_precision",
        npu_iterations_per_loop=10,
        profile_dir=str(tmp_path / "profile"),
        dump_dir=str(tmp_path / "dump"),
        dump_mode="output",
        dump_step="0|5-10",
        op_compiler_cache_dir=str(tmp_path / "cache"),
        fusion_switch_file=str(switches),
        modify_mixlist=str(switches),
        deterministic=True,
        aoe_mode="2",
    )
    with installed("newer") as calls:
        config = dict(_run_config(calls, tmp_path, options))
        objects = {config.pop(name) for name in ("profiling_config", "dump_config")}
        assert {type(o).__name__ for o in objects} == {"ProfilingConfig", "DumpConfig"}
        config.pop("session_config")
        assert config == {
            **_FIXED,
            "model_dir": str(tmp_path),
            "precision_mode": "allow_mix_precision",
            "iterations_per_loop": 10,
            "op_compiler_cache_mode": "enable",
            "op_compiler_cache_dir": str(tmp_path / "cache"),
            "fusion_switch_file": str(switches),
            "modify_mixlist": str(switches),
            "deterministic": 1,
            "aoe_mode": "2",
        }
        made = dict(calls)
        assert made["ProfilingConfig"]["enable_profiling"] is True
        assert json.loads(made["ProfilingConfig"]["options"]) == {
            "output": str(tmp_path / "profile"),
            "training_trace": "on",
            "task_trace": "on",
            "fp_point": "",
            "bp_point": "",
        }
        assert made["DumpConfig"] == {
            "enable_dump": True,
            "dump_path": str(tmp_path / "dump"),
            "dump_step": "0|5-10",
            "dump_mode": "output",
            "enable_dump_debug": False,
            "dump_debug_mode": "all",
        }


def test_dump_of_overflowing_operators(tmp_path):
    options = Options(dump_dir=str(tmp_path), dump_debug="aicore_overflow")
    with installed() as calls:
        _run_config(calls, tmp_path, options)
        dump = dict(calls)["DumpConfig"]
    assert (dump["enable_dump"], dump["enable_dump_debug"]) == (False, True)
    assert dump["dump_debug_mode"] == "aicore_overflow"


@pytest.mark.parametrize(
    "flag, value",
    [
        ("deterministic", True),
        ("aoe_mode", "2"),
        ("precision_mode", "mixed_float16"),
        ("precision_mode", "cube_fp16in_fp32out"),
    ],
)
def test_flag_the_adapter_has_no_keyword_for(flag, value, tmp_path):
    with installed("older") as calls, pytest.raises(UserError) as error:
        _run_config(calls, tmp_path, Options(**{flag: value}))
    assert f"--{flag}={value}" in str(error.value) and "adapter v1.15.0" in str(error.value)


def test_files_the_older_adapter_takes(tmp_path):
    switches = tmp_path / "switches.json"
    switches.write_text("{}")
    flags = {"op_compiler_cache_dir": str(tmp_path / "cache"), "fusion_switch_file": str(switches)}
    with installed("older") as calls:
        config = _run_config(calls, tmp_path, Options(**flags))
        assert flags.items() <= config.items()
        lists = {"precision_mode": "allow_mix_precision", "modify_mixlist": str(switches)}
        with pytest.raises(UserError, match=r"--modify_mixlist=.* v1\.15\.0 has no modify_mixlist"):
            _run_config(calls, tmp_path, Options(**lists))


@pytest.mark.parametrize("mode", options.PRECISION_MODES)
def test_newer_adapter_takes_every_precision_mode(mode, tmp_path):
    with installed("newer") as calls:
        estimator = _estimator(tmp_path, Options(precision_mode=mode))
        with tf.Graph().as_default(), tf.Session(config=estimator.config.session_config) as npu:
            npu.run(tf.constant(0))  # Then the adapter checks it.
        config = dict(calls)["NPURunConfig"]
    assert [config.get("precision_mode"), config.get("precision_mode_v2")].count(mode) == 1
    assert ("precision_mode_v2" in config) == (mode in ("fp16", "origin") or mode[:6] == "mixed_")


def test_refusal_of_the_adapter_is_the_users_to_mend(tmp_path):
    with installed():
        device = choosing.choose("npu")
        del os.environ["JOB_ID"]  # Of which the adapter makes sure, too.
        match = r"v1\.15\.0 does not take these settings: .*JOB_ID"
        with pytest.raises(UserError, match=match):
            device.estimator(_model_fn, str(tmp_path), save_checkpoints_steps=100)


def test_variables_that_load_weights_are_pointed_out(log):
    with installed(RESTORE_FROM="/data/weights"):
        choosing.choose("npu")
    assert "RESTORE_FROM is set" in log.text


# The optimizer -----------------------------------------------------------------------------------


def _wrap(calls, options):
    with tf.Graph().as_default():
        optimizer = choosing.choose("npu", options).wrap_optimizer(
            tf.train.GradientDescentOptimizer(0.1)
        )
    return type(optimizer).__name__, [c for c in calls if "Optimizer" in c[0] or "Scale" in c[0]]


def test_dynamic_loss_scale():
    with installed() as calls:
        assert choosing.choose("npu").skips_steps
        name, made = _wrap(calls, Options())
    assert name == "NPULossScaleOptimizer"
    assert made == [
        (
            "ExponentialUpdateLossScaleManager",
            {
                "init_loss_scale": 2**32,
                "incr_every_n_steps": 1000,
                "decr_every_n_nan_or_inf": 2,
                "incr_ratio": 2,
                "decr_ratio": 0.5,
            },
        ),
        (
            "NPULossScaleOptimizer",
            {
                "optimizer": "GradientDescentOptimizer",
                "manager": "ExponentialUpdateLossScaleManager",
                "is_distributed": False,
            },
        ),
    ]


def test_fixed_loss_scale_and_none():
    with installed() as calls:
        name, made = _wrap(calls, Options(loss_scale="1024"))
        assert name == "NPULossScaleOptimizer"
        assert made[0] == ("FixedLossScaleManager", {"loss_scale": 1024.0})
        assert _wrap(calls, Options(loss_scale="none"))[0] == "GradientDescentOptimizer"
        assert not choosing.choose("npu", Options(loss_scale="none")).skips_steps


def test_several_devices_average_inside_the_loss_scale(table):
    ranks = {"RANK_SIZE": "8", "RANK_ID": "3", "RANK_TABLE_FILE": table(8)}
    with installed(**ranks) as calls:
        _, made = _wrap(calls, Options())
    assert [name for name, _ in made] == [
        "ExponentialUpdateLossScaleManager",
        "NPUDistributedOptimizer",
        "NPULossScaleOptimizer",
    ]
    assert made[1][1]["optimizer"] == "GradientDescentOptimizer"
    assert made[2][1]["optimizer"] == "NPUDistributedOptimizer"
    assert made[2][1]["is_distributed"] is True


# The adapter for TensorFlow 2.6 ------------------------------------------------------------------


def test_adapter_for_tensorflow_26_is_taken_where_it_is(log, table, tmp_path):
    """It is switched on by an attribute, which the module of the same name has not."""
    ranks = {"RANK_SIZE": "8", "RANK_ID": "3", "RANK_TABLE_FILE": table(8)}
    with installed("tf26", **ranks) as calls:
        npu_options = Options(precision_mode="mixed_float16")
        assert _run_config(calls, tmp_path, npu_options)["precision_mode_v2"] == "mixed_float16"
        assert [name for name, _ in calls][:2] == ["enable_v1", "import"]
        assert not hasattr(sys.modules["npu_device.compat"], "enable_v1")
        made = [_wrap(calls, Options(loss_scale=scale)) for scale in ("dynamic", "64", "none")]
    assert "Rank 3 of 8, Ascend adapter v2.6.2 (npu_device)." in log.text
    optimizer = {"optimizer": "GradientDescentOptimizer"}
    both = {**optimizer, "is_distributed": True, "is_loss_scale": True}
    assert made[-1][1] == [
        ("NPUOptimizer", {**both, "manager": "DynamicLossScale"}),
        ("NPUOptimizer", {**both, "manager": "FixedLossScale"}),
        ("NPUDistributedOptimizer", {**optimizer, "name": None}),
    ]


# Ranks -------------------------------------------------------------------------------------------


def test_each_rank_has_its_share_and_its_model_directory(table, tmp_path):
    path, directories = table(8), set()
    for rank in range(8):
        with installed(RANK_SIZE="8", RANK_ID=str(rank), RANK_TABLE_FILE=path) as calls:
            device = choosing.choose("npu")
            assert (device.num_devices, device.rank, device.is_chief) == (8, rank, rank == 0)
            assert device.sharding() == (8, rank)
            directories.add(device.model_dir("/model"))
            config = _run_config(calls, tmp_path, Options(), random_seed=5)
            assert config["hcom_parallel"] is True
            assert config["tf_random_seed"] == 5 + rank  # Each has its own dropout.
    assert directories == {"/model"} | {f"/model/rank_{rank}" for rank in range(1, 8)}


def test_devices_that_a_chief_collects():
    chief = {
        "CM_CHIEF_IP": "10.0.0.1",
        "CM_CHIEF_PORT": "6000",
        "CM_CHIEF_DEVICE": "0",
        "CM_WORKER_SIZE": "4",
        "CM_WORKER_IP": "10.0.0.1",
    }
    with installed("newer", ASCEND_DEVICE_ID="2", **chief) as calls:
        assert choosing.choose("npu").sharding() == (4, 2)
        assert _openers(calls) == ["npu.py:_rank_from_hccl"]
        # The system went with that session: nobody else could ask.
        assert importlib.import_module("npu_bridge.npu_init").get_rank_id() == 0xFFFFFFFF
    for release in ("current", "r1.11"):
        with installed(release, **chief), pytest.raises(UserError, match="not know the CM_ variab"):
            choosing.choose("npu")
    with installed(RANK_SIZE="4", **chief), pytest.raises(UserError, match="are both set"):
        choosing.choose("npu")
    del chief["CM_CHIEF_PORT"]
    with installed(**chief), pytest.raises(UserError, match="CM_CHIEF_PORT missing"):
        choosing.choose("npu")


def test_rank_is_that_of_rank_id_in_a_pod(table):
    with installed(RANK_SIZE="2", RANK_ID="1", RANK_TABLE_FILE=table(2), POD_NAME="pod-0"):
        assert choosing.choose("npu").rank == 1
        assert "POD_NAME" not in os.environ  # Otherwise ge_plugin.cc would not read RANK_ID.


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"JOB_ID": ""}, "no JOB_ID"),
        ({"RANK_SIZE": "two"}, "RANK_SIZE is 'two'"),
        ({"RANK_SIZE": "8", "RANK_ID": "8"}, "RANK_ID is '8'"),
        ({"RANK_SIZE": "8"}, "RANK_ID is not set"),
        ({"RANK_SIZE": "2", "RANK_ID": "0"}, "needs RANK_TABLE_FILE"),
        ({"RANK_TABLE_FILE": "/nowhere/table.json"}, "table.json cannot be read"),
        ({"RANK_TABLE_FILE": "table.json", "CM_CHIEF_IP": "10.0.0.1"}, "takes neither"),
    ],
)
def test_environments_that_are_wrong(environment, message):
    with installed():
        os.environ.update(environment)
        with pytest.raises(UserError, match=message):
            choosing.choose("npu")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"group_list": []}, "the older format"),
        ({"status": "initializing"}, '"status": "completed", found'),
        ({"server_count": "2"}, "\"server_count\" is '2', the list has 1"),
        ({"server_list": []}, "to be a list of servers"),
        ({"server_list": [{"server_id": "a", "device": [{}] * 3}], "server_count": 1}, "3 devices"),
        ({}, "lists 4 devices, RANK_SIZE is 2"),
    ],
)
def test_rank_tables_that_are_wrong(changes, message, table):
    ranks = {"RANK_SIZE": "2", "RANK_ID": "0", "RANK_TABLE_FILE": table(4, **changes)}
    with installed(**ranks), pytest.raises(UserError, match=message):
        choosing.choose("npu")


def test_checkpoints_are_saved_between_loops():
    with installed():
        device = choosing.choose("npu", Options(npu_iterations_per_loop=10))
        device.check_save_steps(100)
        with pytest.raises(UserError, match=r"=10 does not divide the 105 steps .* like 110"):
            device.check_save_steps(105)


def test_summaries_of_the_npu_are_as_often_as_the_flag_says(tmp_path):
    directory = str(tmp_path)
    with installed(), tf.Graph().as_default(), CpuSession() as session:
        step = tf.train.create_global_step()
        tf.summary.scalar("loss", tf.cast(step, tf.float32))
        device = choosing.choose("npu")
        (hook,) = device.training_hooks(directory, 100, log_steps=3, max_steps=9, check_end=None)
        hook.begin()
        for number in range(1, 9):
            session.run(step.assign(number).op)
            values = session.run(hook.before_run(None).fetches)
            hook.after_run(None, tf.train.SessionRunValues(values, None, None))
        tf.summary.FileWriterCache.get(directory).flush()
    assert curves.read_scalars(directory) == {"loss": [(1, 1.0), (4, 4.0), (7, 7.0)]}
