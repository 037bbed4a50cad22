"""The program on a real GPU; these tests need one:

    bash scripts/run_tests.sh --gpu test/gpu_test.py test/golden_test.py

The golden figures are of float32, which a GPU since Ampere rounds to fewer digits unless
NVIDIA_TF32_OVERRIDE=0 is in the environment.
"""

import csv
import os
import re
import signal
import subprocess
import time

import helpers
import numpy as np
import pytest

import amoeba_net_model
from common import results
from common.checkpoints import selection
from common.devices import choosing, gpu
from common.devices.options import Options
from common.hooks import interruption
from common.runtime import tf

pytestmark = [
    pytest.mark.xdist_group("gpu"),
    pytest.mark.skipif(not gpu.is_there(), reason="needs a GPU and --gpu, see the file"),
]

_RECIPE = f"--flagfile={os.path.join(helpers.ROOT, 'scripts', 'quickstart.flags')}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("digits"))
    helpers.run("scripts/make_digits.py", directory)
    return directory


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """The quick start's training with the program's defaults: (model_dir, its log)."""
    model_dir = str(tmp_path_factory.mktemp("model"))
    arguments = [_RECIPE, f"--data_dir={digits}", f"--model_dir={model_dir}", "--random_seed=1"]
    return model_dir, helpers.run("amoeba_net.py", *arguments).log


def test_default_training_learns(trained):
    model_dir, log = trained
    assert "TensorFlow sees a GPU" in log
    assert "the GPU computes in mixed precision, --loss_scale=dynamic" in log
    train, evaluation = results.read_results(model_dir)[:2]
    assert train["accelerator"] == evaluation["accelerator"] == "gpu"
    assert evaluation["metrics"]["top_1_accuracy"] > 0.93


def test_evaluation_alone_and_on_the_cpu_agree_with_the_trainings(digits, trained):
    model_dir, _ = trained
    metrics = [results.read_results(model_dir)[-1]["metrics"]]
    for accelerator in ("gpu", "cpu"):
        helpers.run(
            "amoeba_net.py",
            *(_RECIPE, "--mode=eval", f"--accelerator={accelerator}", f"--data_dir={digits}"),
            *(f"--model_dir={model_dir}", f"--checkpoint_path={model_dir}"),
        )
        metrics.append(results.read_results(model_dir)[-1]["metrics"])
    training, alone, on_cpu = metrics
    for other in (alone, on_cpu):  # The library chooses its kernels, and TF32, anew each time.
        assert other["loss"] == pytest.approx(training["loss"], rel=1e-2)
        for name in ("top_1_accuracy", "top_5_accuracy"):
            assert other[name] == pytest.approx(training[name], abs=2.5 / 360)


def test_predictions_and_exports_answer_as_the_cpu(digits, trained, tmp_path):
    model_dir, _ = trained
    images = str(tmp_path / "images")
    helpers.run("scripts/extract_images.py", f"--data_dir={digits}", f"--output_dir={images}")
    answers = {}
    for accelerator in ("gpu", "cpu"):
        table = str(tmp_path / f"{accelerator}.csv")
        helpers.run(
            "amoeba_net.py",
            *(_RECIPE, "--mode=predict", f"--accelerator={accelerator}", f"--data_dir={digits}"),
            *(f"--model_dir={model_dir}", f"--image_paths={images}/*/*"),
            f"--predictions_file={table}",
        )
        with open(table, newline="") as file:
            answers[accelerator] = list(csv.reader(file))
        helpers.run(
            "amoeba_net.py",
            *(_RECIPE, "--mode=export", f"--accelerator={accelerator}", f"--data_dir={digits}"),
            *(f"--model_dir={model_dir}", f"--export_dir={tmp_path / accelerator}"),
            "--export_format=frozen_graph",
        )
    assert len(answers["gpu"]) == len(answers["cpu"]) > 300
    different = [pair for pair in zip(answers["gpu"], answers["cpu"]) if pair[0][:2] != pair[1][:2]]
    assert len(different) <= 3
    # Exports hold the weights, whatever the device was.
    graphs = [(tmp_path / name / "frozen_graph.pb").read_bytes() for name in ("gpu", "cpu")]
    assert graphs[0] == graphs[1]


def test_a_stopped_training_goes_on(digits, tmp_path):
    arguments = [_RECIPE, f"--data_dir={digits}", f"--model_dir={tmp_path}", "--mode=train"]
    command = helpers.command("amoeba_net.py", *arguments, "--save_checkpoints_steps=20")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not selection.latest(str(tmp_path)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=300)[0]
    assert process.returncode == interruption.EXIT_STATUS, log
    stopped = int(re.search(r"Stopped by SIGTERM at step (\d+) of 276", log).group(1))
    log = helpers.run("amoeba_net.py", *arguments).log
    assert f"Restoring parameters from {tmp_path}/model.ckpt-{stopped}\n" in log
    assert selection.latest(str(tmp_path)).endswith("-276")


# One graph ---------------------------------------------------------------------------------------

_OPTIONS = {
    "float32": Options(precision_mode="force_fp32"),
    "mixed": Options(),
    "fixed scale": Options(loss_scale="128"),
    "xla": Options(precision_mode="force_fp32", xla=True),
    "mixed xla": Options(xla=True),
}


def _images(hparams):
    shape = [hparams.train_batch_size, hparams.image_size, hparams.image_size, 3]
    return np.random.RandomState(1).uniform(-1, 1, shape).astype(np.float32)


class _Steps:
    """A training graph on a device, and what its steps did.

    Attributes:
        losses: of three steps with images, and after them of one with infinite pixels.
        before, after: {name: value} of all variables before and after that last step.
        half, devices: types of float16 operations that ran, and the devices of convolutions, in
            the first step.
    """

    def __init__(self, device):
        hparams = helpers.tiny_hparams(
            reduction_size=16, image_size=64, train_batch_size=8, lr=0.01, lr_warmup_epochs=0.0
        )
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            tf.train.create_global_step()
            images = _images(hparams)
            features = tf.placeholder(tf.float32, images.shape)
            labels = tf.constant(np.arange(8), tf.int32)
            model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None, device)
            spec = model.model_fn(features, labels, tf.estimator.ModeKeys.TRAIN)
            with tf.Session(config=device.session_config(training=True)) as session:
                session.run(tf.global_variables_initializer())
                for variable in tf.global_variables():
                    value = np.random.RandomState(1).normal(size=variable.shape.as_list())
                    if variable.op.name.endswith("weights"):
                        fan_in = max(1, np.prod(variable.shape.as_list()[:-1]))
                        variable.load(value * np.sqrt(2.0 / fan_in), session)

                def step(pixels, **options):
                    fetches = [spec.loss, spec.train_op]
                    return session.run(fetches, {features: pixels}, **options)[0]

                metadata = tf.RunMetadata()
                options = tf.RunOptions(
                    trace_level=tf.RunOptions.FULL_TRACE, output_partition_graphs=True
                )
                self.losses = [step(images, options=options, run_metadata=metadata)]
                self.losses += [step(images) for _ in range(2)]
                names = {v.op.name: v for v in tf.global_variables()}
                self.before = session.run(names)
                self.losses.append(step(np.full_like(images, np.inf)))
                self.after = session.run(names)
        nodes = [node for graph in metadata.partition_graphs for node in graph.node]
        self.half = {n.op for n in nodes if n.attr["T"].type == tf.float16.as_datatype_enum}
        self.devices = {n.device for n in nodes if n.op.startswith("Conv2D")}


@pytest.fixture(scope="module")
def steps():
    """{name: _Steps} for each of _OPTIONS, and of the CPU."""
    found = {}
    for name, options in _OPTIONS.items():
        found[name] = _Steps(choosing.choose("gpu", options))
        tf.train.experimental.disable_mixed_precision_graph_rewrite()
    with tf.device("cpu:0"):
        found["cpu"] = _Steps(choosing.choose("cpu"))
    return found


@pytest.mark.parametrize("name", _OPTIONS)
def test_losses_are_the_cpus(steps, name):
    tolerance = 2e-2 if name in ("mixed", "fixed scale", "mixed xla") else 1e-2
    assert steps[name].losses[0] == pytest.approx(steps["cpu"].losses[0], rel=tolerance)


def test_convolutions_compute_where_and_how_they_should(steps):
    for name in ("float32", "mixed", "fixed scale"):
        assert steps[name].devices and all("GPU" in device for device in steps[name].devices)
        assert ("Conv2D" in steps[name].half) == (name != "float32")
    assert all("CPU" in device for device in steps["cpu"].devices)


@pytest.mark.parametrize("name", ["mixed", "mixed xla"])
def test_an_overflow_moves_nothing_but_the_loss_scale(steps, name):
    before, after = steps[name].before, steps[name].after
    moved = {n for n in before if not np.array_equal(before[n], after[n])}
    assert moved == {"current_loss_scale"} or moved == {"current_loss_scale", "good_steps"}
    assert after["current_loss_scale"] == before["current_loss_scale"] / 2
