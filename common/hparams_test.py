"""Named hyper-parameters: what a name that is unknown or taken does."""

import pytest

from common.hparams import HParams


def test_a_name_is_added_once_and_then_set():
    hparams = HParams(lr=0.1)
    hparams.add_hparam("seed", None)
    hparams.set_hparam("seed", 3)
    hparams.lr = 0.2
    assert hparams.values() == {"lr": 0.2, "seed": 3}
    assert (hparams.seed, hparams.get("seed"), hparams.get("rate", 5)) == (3, 3, 5)
    with pytest.raises(ValueError, match="'lr' exists already"):
        hparams.add_hparam("lr", 1.0)
    for change in (lambda: hparams.set_hparam("rate", 1), lambda: setattr(hparams, "rate", 1)):
        with pytest.raises(ValueError, match=r"Unknown hyper-parameter 'rate': expected one of lr"):
            change()
    assert hparams.values() == {"lr": 0.2, "seed": 3}


def test_values_are_a_copy():
    hparams = HParams(lr=0.1)
    hparams.values()["lr"] = 7.0
    assert hparams.lr == 0.1
