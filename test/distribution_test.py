"""Training by several processes on this machine, as users start it."""

import glob
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time

import helpers
import numpy as np
import pytest

import amoeba_net_model
from common import results
from common.checkpoints import reading, selection
from common.devices.cpu import Cpu
from common.errors import UserError
from common.hooks import interruption, nonfinite
from common.runtime import tf
from scripts import launch_local

_IMAGES = 30
_FIRST_STEP = 7  # Of the checkpoint that all trainings go on from.
_STEPS = 6
_SMALL = {**helpers.TINY, "num_label_classes": 11}
_FLAGS = [
    *helpers.flags(_SMALL),
    *["--accelerator=cpu", "--optimizer=sgd", "--lr=0.05", "--lr_decay_method=constant"],
    # Each step sees all images, so that their order does not matter.
    *[f"--num_train_images={_IMAGES}", f"--train_batch_size={_IMAGES}"],
    *[f"--num_eval_images={_IMAGES}", "--eval_batch_size=16"],
    *["--augment=False", "--dense_dropout_keep_prob=1", "--moving_average_decay=0.9"],
]
# The program, which also keeps each step's loss and the variables of this process in the end; with
# KILL_AT=step:file in the environment worker 1 kills itself at that step, the first time; with
# HANG=file worker 1 gets no images while there is such a file.
_PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
import numpy as np
from absl import app
import amoeba_net, amoeba_net_model
from common.devices.device import Device
from common.distribution import replication
from common.runtime import tf

name = (os.environ.get("TF_CONFIG") or "alone")[-3:].strip("}} ")


class Keeper(tf.train.SessionRunHook):
    losses = []

    def begin(self):
        self.loss = tf.get_collection(tf.GraphKeys.LOSSES)[-1]

    def before_run(self, context):
        return tf.train.SessionRunArgs(self.loss)

    def after_run(self, context, values):
        self.losses.append(values.results)

    def end(self, session):
        variables = {{v.op.name: replication.copies(v)[0] for v in tf.global_variables()}}
        values = session.run(variables)
        directory = amoeba_net.FLAGS.model_dir
        np.savez(f"{{directory}}/kept_{{name}}.npz", losses=self.losses, **values)


class Killer(tf.train.SessionRunHook):
    def before_run(self, context):
        return tf.train.SessionRunArgs(tf.train.get_global_step())

    def after_run(self, context, values):
        step, marker = os.environ["KILL_AT"].split(":")
        if values.results >= int(step) and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


def wait(labels):
    while os.path.exists(os.environ["HANG"]):
        time.sleep(0.1)
    return labels


def hanging_input_fn(pipeline):
    def hang(images, labels):
        return images, tf.reshape(tf.py_func(wait, [labels], labels.dtype), labels.shape)

    return input_fn(pipeline).map(hang)


input_fn = amoeba_net_model.InputPipeline.input_fn
if name == "1" and "HANG" in os.environ:
    amoeba_net_model.InputPipeline.input_fn = hanging_input_fn
mine = [Keeper(), *([Killer()] if name == "1" and "KILL_AT" in os.environ else [])]
hooks = Device.training_hooks
Device.training_hooks = lambda *args, **kwargs: [*mine, *hooks(*args, **kwargs)]
app.run(amoeba_net.main)
"""

pytestmark = pytest.mark.xdist_group("distribution")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Directory with the program, images and a checkpoint to go on from."""
    directory = tmp_path_factory.mktemp("distribution")
    (directory / "program.py").write_text(textwrap.dedent(_PROGRAM).format(root=helpers.ROOT))
    images, labels = helpers.digits_and_photos()
    examples = helpers.image_examples(images[:_IMAGES], labels)
    for split, shards in (("train", 5), ("validation", 1)):  # 5: files that do not divide.
        helpers.write_shards(directory / "data", split, helpers.deal(examples, shards))
    helpers.write_random_checkpoint(helpers.tiny_hparams(**_SMALL), str(directory / "start"))
    return directory


def _train(setting, name, processes, *flags):
    """Trains from the checkpoint; returns the model directory, kept values of all, the logs."""
    model_dir = setting / name
    subprocess.run(["cp", "-r", str(setting / "start"), str(model_dir)], check=True)
    flags = [
        *[f"--data_dir={setting}/data", f"--model_dir={model_dir}", *_FLAGS],
        *[f"--train_steps={_FIRST_STEP + _STEPS}", "--freeze_batch_norm", *flags],
    ]
    program = str(setting / "program.py")
    if processes == 1:
        command = helpers.command(program, *flags)
    else:
        launcher = helpers.command("scripts/launch_local.py", f"--workers={processes}")
        launcher += [f"--log_dir={setting}/{name}.log", f"--program={program}"]
        command = [*launcher, *(["--evaluator"] if processes == 2 else []), "--", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    logs = {os.path.basename(path): _read(path) for path in glob.glob(f"{setting}/{name}.log/*")}
    assert done.returncode == 0, (done.stdout.decode(), logs)
    kept = [dict(np.load(path)) for path in sorted(glob.glob(f"{model_dir}/kept_*"))]
    assert len(kept) == processes
    return str(model_dir), kept, logs


def _read(path):
    with open(path) as f:
        return f.read()


@pytest.fixture(scope="module")
def alone(setting):
    return _train(setting, "alone", 1, "--mode=train")


@pytest.fixture(scope="module")
def two(setting):
    """Two that train and one that evaluates, with a checkpoint every three steps."""
    return _train(setting, "two", 2, "--mode=train_and_eval", "--save_checkpoints_steps=3")


@pytest.fixture(scope="module")
def three(setting):
    return _train(setting, "three", 3, "--mode=train", "--gradient_clipping_by_global_norm=1e6")


def test_replicas_hold_identical_weights_and_learn_what_one_process_does(alone, two, three):
    _, (single,), _ = alone
    for _, kept, _ in (two, three):
        for other in kept[1:]:
            for name, value in kept[0].items():
                np.testing.assert_array_equal(other[name], value, err_msg=name)
        assert len(kept[0]["losses"]) == _STEPS
        np.testing.assert_allclose(kept[0]["losses"], single["losses"], rtol=1e-4)
        for name, value in single.items():
            np.testing.assert_allclose(kept[0][name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert single["losses"][-1] < single["losses"][0] - 1e-3  # It did learn.


def test_the_chief_alone_writes(two):
    model_dir, (chief, _), _ = two
    assert not glob.glob(f"{model_dir}/*tmp*") and not glob.glob(f"{model_dir}/rank_*")
    (train,) = [r for r in results.read_results(model_dir) if r["kind"] == "train"]
    assert (train["num_devices"], train["global_step"]) == (2, _FIRST_STEP + _STEPS)
    assert train["metrics"]["loss"] == pytest.approx(float(chief["losses"][-1]), rel=1e-6)
    assert len(glob.glob(f"{model_dir}/events.*")) == 2  # One of them for the HParams tab.


def test_the_evaluator_evaluates_each_checkpoint_and_ends_with_training(two):
    model_dir, _, logs = two
    evaluations = [r["global_step"] for r in results.read_results(model_dir) if r["kind"] == "eval"]
    last = _FIRST_STEP + _STEPS
    assert evaluations == [_FIRST_STEP, _FIRST_STEP + 3, last]
    assert f"Evaluated the last step, {last}." in logs["evaluator_0.log"]


def test_a_bad_record_of_one_process_is_named_and_ends_all(setting, tmp_path):
    """The others, whose images go on, do not take the early end for the planned one."""
    images, labels = helpers.digits_and_photos()
    examples = helpers.image_examples([*images[:7], b"nothing"], labels[:8])
    helpers.write_shards(tmp_path / "data", "train", helpers.deal(examples, 2))
    launcher = helpers.command("scripts/launch_local.py", "--workers=2", "--max_restarts=2")
    launcher += [f"--log_dir={tmp_path}/logs", f"--program={setting}/program.py"]
    flags = [*_FLAGS, f"--data_dir={tmp_path}/data", f"--model_dir={tmp_path}/model"]
    flags += ["--mode=train", "--num_train_images=8", "--train_batch_size=2", "--train_steps=100"]
    done = subprocess.run([*launcher, "--", *flags], stdout=subprocess.PIPE, check=False)
    logs = [_read(f"{tmp_path}/logs/worker_{i}.log") for i in range(2)]
    assert done.returncode == 1, (done.stdout.decode(), logs)
    assert "worker 1 ended with status 1: program.py: " in done.stdout.decode()
    assert "train-00001-of-00002: record 3 has an image" in logs[1]
    assert "This process ends too" in logs[0], logs[0]


def _wait_for_steps(processes):
    """Waits until all have done steps."""
    while not all("INFO:tensorflow:Step " in _read(process.log) for process in processes):
        assert [p.status() for p in processes] == [None, None], [p.last_line() for p in processes]
        time.sleep(0.1)


def _end(processes):
    """(exit statuses, logs) of processes that end by themselves within minutes."""
    deadline = time.monotonic() + 600
    while None in [p.status() for p in processes] and time.monotonic() < deadline:
        time.sleep(0.1)
    statuses = [p.status() for p in processes]
    for process in processes:
        process.signal(signal.SIGKILL)
    return statuses, [_read(p.log) for p in processes]


def _start_and_stop(log_dir, flags, model_dir):
    """Starts two workers and sends one SIGTERM; returns the step at which both have stopped.

    As a scheduler that neither ends nor starts them again by itself.
    """
    os.makedirs(log_dir)
    arguments = launch_local.parse_arguments([f"--log_dir={log_dir}", "--", *flags])
    with launch_local.held_ports(2) as ports:
        processes = launch_local.start(arguments, ports)
        _wait_for_steps(processes)
        processes[1].signal(signal.SIGTERM)
        statuses, logs = _end(processes)
    assert statuses == [interruption.EXIT_STATUS] * 2, logs
    step = reading.global_step(selection.latest(model_dir))
    for rank, log in enumerate(logs):
        reason = "SIGTERM" if rank == 1 else "a signal to another process"
        assert f"Stopped by {reason} at step {step} of " in log
        assert f"Step {step + 1} of " not in log
        assert "Traceback" not in log
    return step


def test_signals_a_killed_worker_and_new_starts_end_at_the_planned_step(setting, tmp_path):
    model_dir, logs = f"{tmp_path}/model", f"{tmp_path}/logs"
    flags = [
        *["--mode=train", f"--data_dir={setting}/data", f"--model_dir={model_dir}", *_FLAGS],
        *["--save_checkpoints_steps=30", "--log_steps=1"],
    ]
    endless = [*flags, "--train_steps=1000000"]
    first = _start_and_stop(f"{tmp_path}/first", endless, model_dir)
    assert first > 0

    steps = first + 60
    out = helpers.run(
        *["scripts/launch_local.py", "--max_restarts=1", f"--log_dir={logs}"],
        *[f"--program={setting}/program.py", "--", *flags, f"--train_steps={steps}"],
        env={**os.environ, "KILL_AT": f"{first + 40}:{tmp_path}/killed"},
    ).log
    assert reading.global_step(selection.latest(model_dir)) == steps
    assert "worker 1 ended with status 137" in out
    assert "starting all processes again (1 of 1)" in out
    chief = _read(f"{logs}/worker_0.log")
    assert re.search(
        r"program.py: (Lost worker 1 \(127.0.0.1:\d+\) \(.*\)|worker 1 \(127.0.0.1:\d+\) (does "
        r"not answer any more|has ended, or has been started again))\. This process ends too; "
        r"start all of them again, and training goes on from the last checkpoint\.\n",
        chief,
    )
    starts = re.findall(r"Restoring parameters from \S+/model\.ckpt-(\d+)\n", chief)
    assert len(starts) == 2 and first == int(starts[0]) < int(starts[1]) < steps
    assert "Traceback" not in chief
    records = results.read_results(model_dir)
    assert [record["global_step"] for record in records] == [first, steps]


def test_a_process_without_images_ends_all_and_is_named(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("HANG", f"{tmp_path}/hang")
    arguments = launch_local.parse_arguments(
        [
            *[f"--log_dir={tmp_path}", f"--program={setting}/program.py", "--", "--mode=train"],
            *[f"--data_dir={setting}/data", f"--model_dir={tmp_path}/model", *_FLAGS],
            *["--train_steps=1000000", "--log_steps=1", "--stall_timeout=10"],
        ]
    )
    with launch_local.held_ports(2) as ports:
        processes = launch_local.start(arguments, ports)
        _wait_for_steps(processes)
        (tmp_path / "hang").touch()
        statuses, logs = _end(processes)
    assert statuses == [interruption.EXIT_STATUS] * 2, logs
    for log in logs:
        assert "program.py: No step has ended for 10 s (--stall_timeout): step " in log
        assert f" was not begun by worker 1 (127.0.0.1:{ports[1]}). This process ends too; " in log
        assert "Traceback" not in log


def test_other_flags_code_and_data_end_all_before_the_graph_is_built(setting, tmp_path):
    files = sorted(os.listdir(setting / "data"))
    shutil.copytree(setting / "data", tmp_path / "data")
    helpers.truncate(f"{tmp_path}/data/{files[0]}")
    code = tmp_path / "code"  # Of another commit.
    shutil.copytree(f"{helpers.ROOT}/common", code / "common")
    for module in glob.glob(f"{helpers.ROOT}/*.py"):
        shutil.copy(module, code)
    with open(code / "train_step.py", "a") as file:
        file.write("# Changed.\n")
    flags = ["--mode=train", f"--model_dir={tmp_path}/model", *_FLAGS]
    programs = [helpers.command(f"{root}/amoeba_net.py", *flags) for root in (helpers.ROOT, code)]
    own = [[f"--data_dir={setting}/data"], [f"--data_dir={tmp_path}/data", "--lr=0.25"]]
    with launch_local.held_ports(2) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        cores = os.sched_getaffinity(0)
        processes = [
            launch_local.Process(
                [*programs[i], *own[i]], {"worker": addresses}, "worker", i, tmp_path, cores
            )
            for i in range(2)
        ]
        statuses, logs = _end(processes)
    assert statuses == [1, 1], logs
    for log in logs:
        differ = [f"{{}} for worker {i} ({address})" for i, address in enumerate(addresses)]
        assert (
            "amoeba_net.py: The processes differ: --lr is " + ", ".join(differ).format(0.05, 0.25)
            in log
        )
        assert "; the training data is 5 files of " in log
        assert re.search(
            r"; the code's checksum is (\w{12}) for worker 0 .*, (?!\1)\w{12} for", log
        )
        assert "Traceback" not in log and "Calling model_fn" not in log


@pytest.mark.parametrize(
    "config, flags, message",
    [
        (
            '{"cluster": {"worker": ["127.0.0.1:%(port)d", "127.0.0.1:%(port)d"]}, "task": {}}',
            [],
            "TF_CONFIG: worker 0 and worker 1 have the same address",
        ),
        (
            '{"cluster": {"worker": ["127.0.0.1:%(port)d", "b:1", "c:1", "d:1"]}, '
            '"task": {"type": "worker"}}',
            [],
            "--train_batch_size=30 is not a multiple of the 4 devices",
        ),
        (
            '{"cluster": {"worker": ["127.0.0.1:%(port)d", "127.0.0.1:1"]}, '
            '"task": {"type": "worker"}}',
            ["--cluster_timeout=1"],
            "worker 1 (127.0.0.1:1) did not come within 1 s (--cluster_timeout): start all",
        ),
    ],
)
def test_wrong_clusters_end_with_a_sentence(setting, tmp_path, config, flags, message):
    with launch_local.held_ports(1) as (port,):
        log = helpers.run(
            *["amoeba_net.py", "--mode=train", *_FLAGS],
            *[f"--data_dir={setting}/data", f"--model_dir={tmp_path}", *flags],
            status=1,
            env={**os.environ, "TF_CONFIG": config % {"port": port}},
        ).log
    assert message in log
    assert "Traceback" not in log


# The launcher ------------------------------------------------------------------------------------

_SCRIPT = """
import json, os, sys, time
task = json.loads(os.environ["TF_CONFIG"])["task"]
print("said", sys.argv[1], flush=True)
if task == {"type": "worker", "index": 1} and not os.path.exists(sys.argv[2]):
    open(sys.argv[2], "w").close()
    print("that is why", flush=True)
    sys.exit(int(sys.argv[1]))
time.sleep(int(sys.argv[3]))
"""


@pytest.mark.parametrize(
    "failure, seconds, restarts, status",
    [("75", "1", 1, 0), ("75", "60", 0, 75), ("3", "60", 1, 3)],
)
def test_launcher_starts_again_only_what_may_end_well(
    tmp_path, capfd, failure, seconds, restarts, status
):
    script, marker = tmp_path / "script.py", tmp_path / "marker"
    script.write_text(_SCRIPT)
    old = signal.getsignal(signal.SIGTERM)
    try:
        launch_local.main(
            [
                *[f"--program={script}", f"--max_restarts={restarts}", "--grace=0.5"],
                *[f"--log_dir={tmp_path}/logs", "--", failure, str(marker), seconds],
            ]
        )
        found = 0
    except SystemExit as error:
        found = error.code
    finally:
        signal.signal(signal.SIGTERM, old)
    output = capfd.readouterr().out
    assert found == status
    assert f"worker 1 ended with status {failure}: that is why" in output
    assert ("starting all processes again" in output) == (status == 0)


@pytest.mark.parametrize("flag", ["--workers=0", "--max_restarts=-1"])
def test_launcher_says_what_a_number_must_be(flag, capsys):
    with pytest.raises(SystemExit):
        launch_local.main([flag])
    assert f"{flag}: expected" in capsys.readouterr().err


def test_launcher_knows_the_status_of_processes_that_can_be_started_again():
    assert launch_local.TEMPORARY_FAILURE == interruption.EXIT_STATUS


# Several devices of one process ------------------------------------------------------------------


def _train_replicas(replicas, model_dir, steps, halves=(0, 0), hooks=()):
    """Trains on virtual CPUs with `MirroredStrategy`, as on GPUs; returns all variables' values.

    Args:
        halves: seeds of the images of which a batch is made; None for images that are no numbers.
        hooks: of the training.
    """
    hparams = helpers.tiny_hparams(
        num_label_classes=11,
        image_size=32,
        dense_dropout_keep_prob=1.0,
        drop_connect_keep_prob=1.0,
        lr=0.01,
        lr_decay_method="constant",
        optimizer="momentum",
        train_batch_size=8,
        num_train_images=80,
    )
    shape = (4, hparams.image_size, hparams.image_size, 3)
    images = [np.random.RandomState(seed).uniform(-1, 1, shape) for seed in halves]
    images = np.concatenate(images).astype(np.float32)
    images[np.repeat([seed is None for seed in halves], len(images) // len(halves))] = np.nan
    labels = np.tile(np.arange(1, 5, dtype=np.int32), len(halves))

    def input_fn():
        dataset = tf.data.Dataset.from_tensor_slices((images, labels)).repeat()
        return dataset.batch(len(images) // replicas, drop_remainder=True)

    session = Cpu().session_config(training=True)
    session.device_count["CPU"] = replicas
    devices = [f"/cpu:{i}" for i in range(replicas)]
    config = tf.estimator.RunConfig(
        model_dir=model_dir,
        tf_random_seed=1,
        session_config=session,
        train_distribute=tf.distribute.MirroredStrategy(devices) if replicas > 1 else None,
    )
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir)
    tf.estimator.Estimator(model.model_fn, config=config, params={}).train(
        input_fn, list(hooks), max_steps=steps
    )
    reader = tf.train.load_checkpoint(model_dir)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_two_replicas_of_one_process_do_the_step_of_one(tmp_path):
    """Both have the same images, so that their statistics are the whole batch's."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    start = _train_replicas(1, one, steps=1)
    shutil.copytree(one, two)
    expected, found = _train_replicas(1, one, steps=2), _train_replicas(2, two, steps=2)
    assert found.keys() == expected.keys()
    assert found["global_step"] == 2
    moved = 0
    for name, value in expected.items():
        # TensorFlow's moving variance is n / (n - 1) of the batch's, whose n differs here.
        if "moving_variance" not in name:
            # Rounding, amplified: 0.2 % of the step, where a wrong factor is half of it.
            step = np.linalg.norm(value - start[name])
            assert np.linalg.norm(found[name] - value) < 0.05 * step + 1e-5, name
            moved += step > 1e-3
    assert moved > 200


def test_statistics_are_those_of_the_images_of_all_replicas(tmp_path):
    """Each moves by the mean of what either replica's images alone would move it by."""
    directories = {halves: str(tmp_path / str(halves)) for halves in [(0, 1), (0,), (1,)]}
    start = _train_replicas(1, directories[(0, 1)], steps=1)
    for halves in [(0,), (1,)]:
        shutil.copytree(directories[(0, 1)], directories[halves])
    found = {
        halves: _train_replicas(len(halves), directory, steps=2, halves=halves)
        for halves, directory in directories.items()
    }
    statistics = [name for name in start if "moving_" in name.split("/")[-1]]
    assert len(statistics) > 20
    for name in statistics:
        first, second = found[(0,)][name], found[(1,)][name]
        mean = (first + second) / 2
        np.testing.assert_allclose(found[(0, 1)][name], mean, 1e-3, 1e-6, err_msg=name)
    assert any(np.abs(found[(0,)][name] - found[(1,)][name]).max() > 1e-3 for name in statistics)


def test_loss_of_the_second_replica_that_is_not_finite_is_explained(tmp_path):
    hook = nonfinite.NonFiniteHook(False, None, 0, None, last_checkpoint=lambda: None)
    with pytest.raises(UserError, match="The loss is not finite in step 1: loss nan"):
        _train_replicas(2, str(tmp_path), steps=1, halves=(0, None), hooks=[hook])
