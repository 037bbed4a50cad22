"""Flags as settings: each is in one place, and a wrong one is named before a graph is built."""

import glob
import os
import re

import pytest
from absl import flags
from helpers import settings_of

import amoeba_net_model
import settings
from common.devices.options import Options

_FLAGS = {flag.name: flag for flag in flags.FLAGS.flags_by_module_dict()["amoeba_net"]}
_TYPES = {
    "hparams": amoeba_net_model.default_hparams().values(),
    "device": Options()._asdict(),
    "run": settings.RunOptions()._asdict(),
}

# One place for each setting ----------------------------------------------------------------------


def test_every_flag_is_exactly_one_setting():
    names = [name for values in _TYPES.values() for name in values if name in _FLAGS]
    originals = ["use_tpu", "enable_hostcall", "num_shards", "distributed_group_size"]
    assert sorted([*names, *originals]) == sorted(_FLAGS)  # Those are none here.
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
    found = settings_of()
    assert found.hparams.values() == _TYPES["hparams"]
    assert found.device == Options()
    lists = {"export_format", "image_paths", "inference_batch_sizes"}
    assert {
        name: tuple(value) if name in lists else value
        for name, value in found.run._asdict().items()
    } == _TYPES["run"]
    assert not found.given & set(_FLAGS)


def test_flags_become_settings():
    found = settings_of("--lr=0.5", "--loss_scale=8", "--mode=eval", "--num_cells=6")
    assert (found.hparams.lr, found.device.loss_scale, found.run.mode) == (0.5, "8", "eval")
    assert found.given & set(_FLAGS) == {"lr", "loss_scale", "mode", "num_cells"}


def test_build_hparams_are_the_originals():
    found = amoeba_net_model.build_hparams("amoeba_net_a")
    assert found.values().keys() == _TYPES["hparams"].keys()
    assert (found.cell_name, found.num_cells, found.image_size) == ("amoeba_net_a", 18, 299)
    assert (found.lr, found.batch_norm_decay, found.num_stem_cells) == (0.015, 0.9997, 2)
    assert (found.optimizer, found.lr_num_epochs_per_decay) == ("rmsprop", 2.4)


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
        settings_of(argument)
