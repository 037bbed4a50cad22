"""Flags as settings: each is in one place, and a wrong one is named before a graph is built."""

import glob
import importlib.util
import os
import re

import pytest
from absl import flags
from absl.testing import flagsaver

import amoeba_net
import amoeba_net_model
import settings
from common.data import tfrecords
from common.devices.cpu import Cpu
from common.devices.options import Options
from common.errors import UserError
from common.runtime import tf

_FLAGS = {flag.name: flag for flag in flags.FLAGS.flags_by_module_dict()["amoeba_net"]}
_TYPES = {
    "hparams": amoeba_net_model.default_hparams().values(),
    "device": Options()._asdict(),
    "run": settings.RunOptions()._asdict(),
}
_GIVEN = ["--synthetic_data", "--accelerator=cpu"]


def _from_flags(*arguments):
    with flagsaver.flagsaver():
        amoeba_net.FLAGS(["amoeba_net.py", *map(str, arguments)])
        return settings.from_flags(amoeba_net.FLAGS)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data set of 3 validation images and 5 classes, the background included."""
    directory = str(tmp_path_factory.mktemp("data"))
    examples = [tfrecords.image_example(b"", 1, height=1, width=1)] * 3
    split = tfrecords.write_split(directory, "validation", examples, 1)
    info = {"format_version": 1, "num_classes": 4, "num_label_classes": 5}
    tfrecords.write_dataset_info(directory, {**info, "splits": {"validation": split}})
    return directory


# One place for each setting ----------------------------------------------------------------------


def test_every_flag_is_exactly_one_setting():
    names = [name for values in _TYPES.values() for name in values if name in _FLAGS]
    assert sorted([*names, *settings.WITHOUT_EFFECT]) == sorted(_FLAGS)
    without_flag = set().union(*_TYPES.values()) - set(_FLAGS)
    assert without_flag == {
        *("stem_type", "num_stem_cells", "num_reduction_layers", "label_smoothing"),
        *("momentum_rate", "rmsprop_decay", "rmsprop_momentum_rate", "rmsprop_epsilon"),
    }


def test_only_the_entry_points_see_the_flags():
    root = os.path.dirname(settings.__file__)
    paths = [*glob.glob(f"{root}/*.py"), *glob.glob(f"{root}/common/**/*.py", recursive=True)]
    found = set()
    for path in paths:
        with open(path) as file:
            if not path.endswith("_test.py") and "FLAGS" in file.read():
                found.add(os.path.relpath(path, root))
    assert found == {"amoeba_net.py", "tf_hub.py"}


def test_the_default_of_a_flag_is_that_of_its_setting():
    found = _from_flags()
    assert found.hparams.values() == _TYPES["hparams"]
    assert found.device == Options()
    lists = {"export_format", "image_paths", "inference_batch_sizes"}
    assert {
        name: tuple(value) if name in lists else value
        for name, value in found.run._asdict().items()
    } == _TYPES["run"]
    assert not found.given & set(_FLAGS)


def test_flags_become_settings():
    found = _from_flags("--lr=0.5", "--loss_scale=8", "--mode=eval", "--num_cells=6")
    assert (found.hparams.lr, found.device.loss_scale, found.run.mode) == (0.5, "8", "eval")
    assert found.given & set(_FLAGS) == {"lr", "loss_scale", "mode", "num_cells"}


def test_build_hparams_are_the_originals():
    found = amoeba_net_model.build_hparams("amoeba_net_a")
    assert found.values().keys() == _TYPES["hparams"].keys()
    assert (found.cell_name, found.num_cells, found.image_size) == ("amoeba_net_a", 18, 299)
    assert (found.lr, found.batch_norm_decay, found.num_stem_cells) == (0.015, 0.9997, 2)


# Completing the hyper-parameters -----------------------------------------------------------------


def test_numbers_of_dataset_info_unless_flags_give_them(data_dir):
    found = _from_flags(f"--data_dir={data_dir}", "--num_eval_images=2")
    settings.take_dataset_info(found)
    hparams = found.hparams
    assert (hparams.num_label_classes, hparams.num_eval_images) == (5, 2)
    assert hparams.num_train_images == 1281167


def test_synthetic_data_needs_no_dataset_info(data_dir):
    found = _from_flags(f"--data_dir={data_dir}", "--synthetic_data")
    settings.take_dataset_info(found)
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
    found = _from_flags(*arguments)
    settings.scale_learning_rate(found)
    assert found.hparams.lr == pytest.approx(lr)
    assert bool(warnings) == warns


def test_an_export_runs_on_the_cpu():
    device = settings.choose_device(_from_flags("--mode=export", "--accelerator=npu"))
    assert isinstance(device, Cpu)


# What is wrong with a flag -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        *[
            ([f"--{name}=0"], f"--{name}=0.0: expected a number above 0.")
            for name in settings.ABOVE_0
        ],
        *[
            ([f"--{name}=1"], f"--{name}=1.0: expected a number below 1.")
            for name in settings.BELOW_1
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
            ["--nosynthetic_data"],
            "--data_dir is missing: set it to the directory of the TFRecord files, or use "
            "--synthetic_data.",
        ),
        (["--mode=export"], "--export_dir is missing: the directory to export the model to."),
        (
            ["--export_format=onnx,tflite"],
            "--export_format=onnx,tflite: expected saved_model, frozen_graph, or onnx.",
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
        (["--model_dir=/dev/null/m"], "--model_dir=/dev/null/m cannot be written to: "),
        (["--train_batch_size=1000000000"], "--train_batch_size=1000000000: the "),
        (["--mode=eval", "--eval_batch_size=1000000000"], "--eval_batch_size=1000000000: the "),
    ],
)
def test_wrong_values(arguments, message, data_dir, tmp_path):
    places = {"tmp": tmp_path, "data": data_dir}
    arguments = [argument.format(**places) for argument in arguments]
    found = _from_flags(*_GIVEN, f"--model_dir={tmp_path}/model", *arguments)
    with pytest.raises(UserError, match="^" + re.escape(message.format(**places))) as error:
        settings.prepare(found)
    assert "\n" not in str(error.value)


def test_onnx_export_needs_tf2onnx_before_training(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}/m", "--export_format=onnx"]
    with pytest.raises(UserError, match=r"^--export_format=onnx needs tf2onnx and onnx, which"):
        settings.prepare(_from_flags(*_GIVEN, *wanted, f"--export_dir={tmp_path}"))
    settings.prepare(_from_flags(*_GIVEN, *wanted))  # Nothing is exported.


def test_an_evaluator_needs_no_training_files(data_dir, tmp_path, monkeypatch):
    arguments = ["--accelerator=cpu", "--mode=train", f"--data_dir={data_dir}"]
    found = _from_flags(*arguments, f"--model_dir={tmp_path}/model")
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"worker": ["a:1"], "evaluator": ["a:2"]}, "task": {"type": "evaluator"}}',
    )
    assert settings.prepare(found).is_evaluator
    with pytest.raises(UserError, match="has no train shards"):
        settings.prepare(found)  # Alone it trains.


def test_missing_model_dir():
    with pytest.raises(UserError, match=r"^--model_dir is missing: "):
        settings.prepare(_from_flags(*_GIVEN))
    settings.prepare(_from_flags("--mode=export", "--checkpoint_path=x", "--export_dir=x"))


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
    monkeypatch.setattr(settings.choosing, "choose", lambda *arguments: device())
    with pytest.raises(UserError, match="^" + re.escape(message)):
        settings.choose_device(_from_flags(*_GIVEN, *arguments))
    settings.choose_device(_from_flags(*_GIVEN, "--train_batch_size=4"))


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--image_size=0", "--image_size=0: 0 is not a positive integer"),
        ("--train_batch_size=-4", "--train_batch_size=-4: -4 is not a positive integer"),
        ("--max_skipped_steps=0", "--max_skipped_steps=0: 0 is not a positive integer"),
        ("--drop_connect_burn_in_steps=-1", "--drop_connect_burn_in_steps=-1: "),
        ("--cell_name=amoeba_net_z", "should be one of <amoeba_net_a|"),
        ("--mode=foo", "--mode=foo: value should be one of <train|eval|"),
        ("--use_tpu", "--use_tpu=True: there is no TPU here"),
    ],
)
def test_values_that_the_parser_refuses(argument, message):
    with pytest.raises(flags.IllegalFlagValueError, match=re.escape(message)):
        _from_flags(argument)
