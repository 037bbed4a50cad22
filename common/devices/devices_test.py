"""Choosing a device, and what the others do that are no NPU."""

import glob
import os
import subprocess
import sys

import pytest
from helpers import ROOT
from npu_stand_in.installed import PATH, installed
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from common.devices import choosing, cpu
from common.devices import gpu as gpu_device
from common.devices.cpu import CpuSession
from common.devices.options import Options
from common.errors import UserError
from common.runtime import tf

# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss_scale": "big"}, "--loss_scale=big: expected dynamic, none or a number"),
        ({"loss_scale": "-1"}, "--loss_scale=-1"),
        ({"precision_mode": "fp8"}, "--precision_mode=fp8: expected one of"),
        ({"modify_mixlist": "list.json"}, "--modify_mixlist goes with mixed precision"),
        ({"dump_step": "1"}, "--dump_step needs --dump_dir"),
        ({"dump_dir": "/tmp", "dump_step": "0,5"}, "--dump_step=0,5: expected"),
        ({"dump_dir": "/tmp", "dump_step": "3-2"}, "--dump_step=3-2: expected"),
        ({"fusion_switch_file": "/nowhere.json"}, "--fusion_switch_file=/nowhere.json cannot"),
    ],
)
def test_options_that_are_wrong(options, message):
    with installed(), pytest.raises(UserError, match=message):
        choosing.choose("npu", Options(**options))


# Without an NPU ----------------------------------------------------------------------------------


def test_cpu_says_once_that_it_computes_in_float32(log):
    device = choosing.choose("cpu", Options(profile_dir="p", npu_iterations_per_loop=5))
    assert type(device.wrap_optimizer(tf.train.GradientDescentOptimizer(1.0))).__name__ == (
        "GradientDescentOptimizer"
    )
    assert log.text.count("computes in float32") == 1
    assert log.text.count("Without effect") == 1
    assert "--npu_iterations_per_loop=5 --profile_dir=p" in log.text


def test_what_would_mislead_without_an_npu_is_refused(monkeypatch):
    with pytest.raises(UserError, match="--deterministic is for the NPU"):
        choosing.choose("cpu", Options(deterministic=True))
    with pytest.raises(UserError, match="--xla is for GPUs, and this runs on the CPU"):
        choosing.choose("cpu", Options(xla=True))
    monkeypatch.setenv("RANK_SIZE", "8")
    with pytest.raises(UserError, match="RANK_SIZE=8 in the environment"):
        choosing.choose("cpu")


def test_auto_wants_an_npu_and_its_adapter(monkeypatch, log):
    monkeypatch.setattr(gpu_device, "is_there", lambda: False)
    monkeypatch.setattr(choosing.glob, "glob", lambda pattern: [])
    with installed() as calls:
        assert choosing.choose("auto").name == "cpu"
        assert "adapter is installed but there is no NPU" in log.text
        assert not calls
        monkeypatch.setattr(choosing.glob, "glob", lambda pattern: ["/dev/davinci0"])
        assert choosing.choose("auto").name == "npu"
        assert calls
    monkeypatch.setattr(choosing.glob, "glob", lambda pattern: [])
    assert choosing.choose("auto").name == "cpu"
    assert "there is no NPU and no GPU" in log.text


def test_npu_without_its_adapter(monkeypatch):
    monkeypatch.setenv("JOB_ID", "1")
    with pytest.raises(UserError, match="npu_bridge cannot be imported"):
        choosing.choose("npu")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(gpu_device, "is_there", lambda: True)
    yield
    tf.train.experimental.disable_mixed_precision_graph_rewrite()


@pytest.mark.parametrize(
    "options, mixed, skips",
    [
        (Options(), True, True),
        (Options(precision_mode="allow_mix_precision", loss_scale="128"), True, False),
        (Options(loss_scale="none"), True, False),
        (Options(precision_mode="force_fp32"), False, False),
    ],
)
def test_gpu_uses_tensorflows_mixed_precision(gpu, options, mixed, skips):
    device = choosing.choose("gpu", options)
    with tf.Graph().as_default():
        optimizer = device.wrap_optimizer(tf.train.GradientDescentOptimizer(1.0))
    assert (type(optimizer).__name__ == "MixedPrecisionLossScaleOptimizer") == mixed
    assert device.skips_steps == skips


def test_gpu_compiles_with_xla_if_asked(gpu):
    for xla in (False, True):
        config = choosing.choose("gpu", Options(xla=xla)).session_config(training=True)
        level = config.graph_options.optimizer_options.global_jit_level
        assert (level == tf.OptimizerOptions.ON_1) == xla


def test_gpu_evaluates_in_float32_also_after_a_training(gpu):
    device = choosing.choose("gpu")
    with tf.Graph().as_default():
        device.wrap_optimizer(tf.train.GradientDescentOptimizer(1.0))  # For all sessions to come.
        for training in (True, False):
            with tf.Session(config=device.session_config(training)) as session:
                rewriting = session._config.graph_options.rewrite_options.auto_mixed_precision
            assert (rewriting == RewriterConfig.ON) == training


def test_gpu_refuses_modes_it_has_not(gpu):
    with pytest.raises(UserError, match="--precision_mode=force_fp16 is for the NPU"):
        choosing.choose("gpu", Options(precision_mode="force_fp16"))


def test_threads_of_tensorflow_with_mkl(monkeypatch):
    monkeypatch.setattr(cpu.runtime, "uses_openmp", lambda: True)
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # So that it is as before in the end.
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6))
    device = choosing.choose("cpu")
    config = device.session_config()
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (6, 2)
    assert os.environ["OMP_NUM_THREADS"] == "3" and not device.trains_pointwise_as_matmul
    monkeypatch.setenv("OMP_NUM_THREADS", "6")  # The user's own choice stays.
    choosing.choose("cpu").session_config(training=True)
    assert os.environ["OMP_NUM_THREADS"] == "6"


def test_cpu_session_stays_on_the_cpu():
    with installed():
        choosing.choose("npu")
        with tf.Graph().as_default(), tf.Session() as npu, CpuSession() as cpu:
            optimizers = [
                s._config.graph_options.rewrite_options.custom_optimizers for s in (npu, cpu)
            ]
            assert [o.name for o in optimizers[0]] == ["NpuOptimizer"]
            assert not optimizers[1]


def test_importing_every_module_never_imports_the_adapter():
    paths = [
        path
        for pattern in ("*.py", "common/**/*.py")
        for path in glob.glob(os.path.join(ROOT, pattern), recursive=True)
        if not path.endswith(("_test.py", "__init__.py"))
    ]
    modules = [os.path.relpath(path, ROOT)[:-3].replace(os.sep, ".") for path in paths]
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "from common.devices import choosing\n"
        "choosing.glob.glob = lambda pattern: []\n"
        "choosing.choose('auto'), choosing.choose('cpu')\n"
        "assert importlib.util.find_spec('npu_bridge')\n"
        "assert not [m for m in sys.modules if m.startswith('npu_bridge')]\n"
    )
    assert len(modules) > 40
    environment = {**os.environ, "PYTHONPATH": PATH}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
