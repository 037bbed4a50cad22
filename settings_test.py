"""Each flag is one setting of the model, the device or the run, with one default."""

import collections

from absl import flags

import amoeba_net  # noqa: F401 (it defines the flags)
import amoeba_net_model
import settings
from common.devices.options import Options


def _defined():
    return {flag.name: flag for flag in flags.FLAGS.flags_by_module_dict()["amoeba_net"]}


def _types():
    return {
        "hparams": amoeba_net_model.default_hparams().values(),
        "device": Options()._asdict(),
        "run": settings.RunOptions()._asdict(),
    }


def test_every_flag_is_exactly_one_setting():
    settings_of = collections.Counter(
        name for values in _types().values() for name in values if name in _defined()
    )
    settings_of.update(settings.WITHOUT_EFFECT)
    assert settings_of == collections.Counter(list(_defined()))


def test_the_default_of_a_flag_is_that_of_its_setting():
    for values in _types().values():
        for name in values.keys() & _defined().keys():
            default = _defined()[name].default
            expected = values[name]
            assert (tuple(default) if isinstance(default, list) else default) == expected, name
