"""Settings are completed, and a wrong one is named before a graph is built."""

import importlib.util
import re

import pytest
from helpers import settings_of

import preparation
from common.data import tfrecords
from common.devices.cpu import Cpu
from common.errors import UserError
from common.runtime import tf

_GIVEN = ["--synthetic_data", "--accelerator=cpu"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data set of 3 validation images and 5 classes, the background included."""
    directory = str(tmp_path_factory.mktemp("data"))
    examples = [tfrecords.image_example(b"", 1, height=1, width=1)] * 3
    split = tfrecords.write_split(directory, "validation", examples, 1)
    info = {"format_version": 1, "num_classes": 4, "num_label_classes": 5}
    tfrecords.write_dataset_info(directory, {**info, "splits": {"validation": split}})
    return directory


# Completing the hyper-parameters -----------------------------------------------------------------


def test_numbers_of_dataset_info_unless_flags_give_them(data_dir):
    found = settings_of(f"--data_dir={data_dir}", "--num_eval_images=2")
    preparation.take_dataset_info(found)
    hparams = found.hparams
    assert (hparams.num_label_classes, hparams.num_eval_images) == (5, 2)
    assert hparams.num_train_images == 1281167


def test_synthetic_data_needs_no_dataset_info(data_dir):
    found = settings_of(f"--data_dir={data_dir}", "--synthetic_data")
    preparation.take_dataset_info(found)
    assert found.hparams.num_label_classes == 1001


@pytest.mark.parametrize(
    "arguments, lr, warns",
    [
        (["--lr_scaling=linear", "--train_batch_size=64"], 0.16, False),
        (["--lr_scaling=linear", "--train_batch_size=8", "--lr_base_batch_size=32"], 0.64, False),
        (["--train_batch_size=64"], 2.56, True),
        (["--train_batch_size=64", "--mode=eval"], 2.56, False),
        (["--train_batch_size=64", "--lr=2.56"], 2.56, False),
        (["--train_batch_size=512"], 2.56, False),
    ],
)
def test_learning_rate_for_the_batch_size(arguments, lr, warns, monkeypatch):
    warnings = []
    monkeypatch.setattr(tf.logging, "warning", lambda *message: warnings.append(message))
    found = settings_of(*arguments)
    preparation.scale_learning_rate(found)
    assert found.hparams.lr == pytest.approx(lr)
    assert bool(warnings) == warns


def test_an_export_runs_on_the_cpu():
    device = preparation.choose_device(settings_of("--mode=export", "--accelerator=npu"))
    assert isinstance(device, Cpu)


# What is wrong with a flag -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        *[
            ([f"--{name}=0"], f"--{name}=0.0: expected a number above 0.")
            for name in preparation.ABOVE_0
        ],
        *[
            ([f"--{name}=1"], f"--{name}=1.0: expected a number below 1.")
            for name in preparation.BELOW_1
        ],
        (["--lr=nan"], "--lr=nan: expected a finite number."),
        (["--num_epochs=inf"], "--num_epochs=inf: expected a finite number."),
        (["--init_exclude=FC/"], "--init_exclude=FC/ needs --init_checkpoint."),
        (["--trainable_variables=(FC"], "--trainable_variables=(FC is not a regular expression: "),
        (
            ["--init_checkpoint=x", "--init_exclude=("],
            "--init_exclude=( is not a regular expression: ",
        ),
        (["--deterministic_input"], "--deterministic_input needs --random_seed."),
        (
            ["--image_size=64"],
            "--image_size=64 is too small for the network: the smallest is 67, or 19 with "
            "--use_aux_head=False.",
        ),
        (
            ["--image_size=18", "--mode=predict"],
            "--image_size=18 is too small for the network: the smallest is 19.",
        ),
        (
            ["--cell_name=amoeba_net_c", "--reduction_size=7"],
            "--reduction_size=7 is too small for amoeba_net_c: expected at least 8.",
        ),
        (
            ["--nosynthetic_data"],
            "--data_dir is missing: set it to the directory of the TFRecord files, or use "
            "--synthetic_data.",
        ),
        (["--mode=export"], "--export_dir is missing: the directory to export the model to."),
        (
            ["--export_format=onnx,tflite"],
            "--export_format=onnx,tflite: expected saved_model, frozen_graph, or onnx.",
        ),
        (
            ["--num_epochs=0.5", "--num_train_images=64", "--train_batch_size=64"],
            "--num_epochs=0.5 is less than a step: an epoch has 64 images, and "
            "--train_batch_size=64.",
        ),
        (
            ["--checkpoint_path=x"],
            "--checkpoint_path=x works with --mode=eval, predict, and export only. Training starts",
        ),
        (["--export_format="], "--export_format=: expected saved_model, frozen_graph, or onnx."),
        (
            ["--add_warmup_requests", "--export_dir=x", "--export_format=frozen_graph"],
            "--add_warmup_requests needs --export_dir and --export_format=saved_model.",
        ),
        (
            ["--image_paths=a", "--mode=eval"],
            "--image_paths works with --mode=predict only, not with --mode=eval.",
        ),
        (["--predictions_file=a.csv"], "--predictions_file=a.csv needs --image_paths."),
        (
            ["--mode=predict", "--image_paths=a", "--predictions_file={tmp}/absent/c"],
            "--predictions_file={tmp}/absent/c: expected a file in a directory that exists.",
        ),
        (
            ["--nosynthetic_data", "--data_dir={tmp}"],
            "--data_dir: The data directory {tmp} has no train shards: neither {tmp}/train-*-of-* ",
        ),
        (
            ["--nosynthetic_data", "--data_dir={tmp}/absent"],
            "--data_dir: The data directory {tmp}/absent does not exist.",
        ),
        (
            ["--nosynthetic_data", "--mode=eval", "--data_dir={data}", "--num_eval_images=4"],
            "--num_eval_images=4: the 1 validation files in {data} hold 3 images.",
        ),
        (
            ["--nosynthetic_data", "--data_dir={data}", "--num_label_classes=11"],
            "--num_label_classes=11, but dataset.json in {data} says 5, including the background "
            "class 0: leave the flag out, or use another --data_dir.",
        ),
        (
            ["--init_checkpoint={tmp}"],
            "--init_checkpoint={tmp}: There is no checkpoint in {tmp}:",
        ),
        (["--init_checkpoint={tmp}/a"], "--init_checkpoint={tmp}/a: Cannot read a checkpoint"),
        (
            ["--mode=eval", "--eval_drop_remainder", "--num_eval_images=63"],
            "--eval_drop_remainder leaves no batch: --num_eval_images=63 is less than "
            "--eval_batch_size=64.",
        ),
        (["--model_dir=/dev/null/m"], "--model_dir=/dev/null/m cannot be written to: "),
        (["--model_dir=/sys/model"], "--model_dir=/sys/model cannot be written to: "),
        (
            ["--mode=train", "--report_dir={tmp}"],
            "--report_dir={tmp} works with --mode=eval and --mode=train_and_eval only, not with "
            "--mode=train.",
        ),
        (["--report_dir=/dev/null"], "--report_dir=/dev/null cannot be written to: "),
        (["--mode=eval", "--report_dir=/proc/x"], "--report_dir=/proc/x cannot be written to: "),
        (["--mode=predict", "--explain_dir={tmp}"], "--explain_dir={tmp} needs --image_paths."),
        (
            ["--mode=predict", "--image_paths=x.jpg", "--explain_dir=/dev/null"],
            "--explain_dir=/dev/null cannot be written to: ",
        ),
        (["--train_batch_size=1000000000"], "--train_batch_size=1000000000: the "),
        (["--mode=eval", "--eval_batch_size=1000000000"], "--eval_batch_size=1000000000: the "),
    ],
)
def test_wrong_values(arguments, message, data_dir, tmp_path):
    places = {"tmp": tmp_path, "data": data_dir}
    arguments = [argument.format(**places) for argument in arguments]
    found = settings_of(*_GIVEN, f"--model_dir={tmp_path}/model", *arguments)
    with pytest.raises(UserError, match="^" + re.escape(message.format(**places))) as error:
        preparation.prepare(found)
    assert "\n" not in str(error.value)


def test_onnx_export_needs_tf2onnx_before_training(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}/m", "--export_format=onnx"]
    with pytest.raises(UserError, match=r"^--export_format=onnx needs tf2onnx and onnx, which"):
        preparation.prepare(settings_of(*_GIVEN, *wanted, f"--export_dir={tmp_path}"))
    preparation.prepare(settings_of(*_GIVEN, *wanted))  # Nothing is exported.


def test_warm_up_requests_need_their_package_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = [f"--model_dir={tmp_path}/m", f"--export_dir={tmp_path}", "--add_warmup_requests"]
    with pytest.raises(UserError, match=r"^--add_warmup_requests needs tensorflow-serving-api: "):
        preparation.prepare(settings_of(*_GIVEN, *wanted))


def test_an_evaluator_needs_no_training_files(data_dir, tmp_path, monkeypatch):
    arguments = ["--accelerator=cpu", "--mode=train", f"--data_dir={data_dir}"]
    found = settings_of(*arguments, f"--model_dir={tmp_path}/model")
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"worker": ["a:1"], "evaluator": ["a:2"]}, "task": {"type": "evaluator"}}',
    )
    assert preparation.prepare(found).is_evaluator
    with pytest.raises(UserError, match="has no train shards"):
        preparation.prepare(found)  # Alone it trains.


def test_missing_model_dir():
    with pytest.raises(UserError, match=r"^--model_dir is missing: "):
        preparation.prepare(settings_of(*_GIVEN))
    preparation.prepare(settings_of("--mode=export", "--checkpoint_path=x", "--export_dir=x"))


class _TwoDevices(Cpu):
    def _local_devices(self):
        return 2


@pytest.mark.parametrize(
    "device, arguments, message",
    [
        (Cpu, ["--data_format=NCHW"], "--data_format=NCHW: the CPU supports NHWC only."),
        (
            _TwoDevices,
            ["--train_batch_size=5"],
            "--train_batch_size=5 is not a multiple of the 2 devices: ",
        ),
        (_TwoDevices, ["--on_nan=skip"], "--on_nan=skip works with one device only, and there "),
    ],
)
def test_what_a_device_does_not_support(device, arguments, message, monkeypatch):
    monkeypatch.setattr(preparation.choosing, "choose", lambda *arguments: device())
    with pytest.raises(UserError, match="^" + re.escape(message)):
        preparation.choose_device(settings_of(*_GIVEN, *arguments))
    preparation.choose_device(settings_of(*_GIVEN, "--train_batch_size=4"))


def test_an_export_after_training_is_prepared_before(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.txt").write_text("background\na\n")
    wanted = [f"--data_dir={tmp_path}/data", f"--model_dir={tmp_path}/m", "--mode=train"]
    wanted += ["--num_label_classes=3", f"--export_dir={tmp_path}/export"]
    with pytest.raises(UserError, match=r"^--num_label_classes=3: .*labels\.txt names 2 classes"):
        preparation.prepare(settings_of(*_GIVEN, *wanted))
    (tmp_path / "export").rmdir()
    (tmp_path / "export").write_text("")
    with pytest.raises(UserError, match=f"--export_dir={tmp_path}/export cannot be written to"):
        preparation.prepare(settings_of(*_GIVEN, *wanted))
