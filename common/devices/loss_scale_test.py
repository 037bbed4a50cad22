"""Loss scales count steps as the adapter's managers do; of these the stand-in's are tested, too."""

import importlib

import pytest
from npu_stand_in.installed import installed

from common.devices import loss_scale
from common.runtime import tf

_SETTINGS = {"incr_every_n_steps": 3, "decr_every_n_nan_or_inf": 2, "decr_ratio": 0.25}
# Good and bad steps: a rise, falls in spite of good steps between bad ones, the smallest, a rise.
_STEPS = [True] * 4 + [False, True, True, False] + [False] * 5 + [True] * 7


def _expected(scale):
    """(scale, good steps, bad steps) after each step, by the rules of npu_loss_scale_manager.py."""
    good = bad = 0
    for finite in _STEPS:
        if finite:
            good += 1
            if good == 3:
                scale, good, bad = scale * 2 if scale < 3.4e38 / 2 else scale, 0, 0
        else:
            good, bad = 0, bad + 1
            if bad == 2:
                scale, good, bad = max(1.0, scale * 0.25), 0, 0
        yield scale, good, bad


def _adapters(scale):
    npu = importlib.import_module("npu_bridge.npu_init")
    return npu.ExponentialUpdateLossScaleManager(scale, **_SETTINGS)


def _own(scale):
    return loss_scale.DynamicLossScale(scale, **_SETTINGS)


@pytest.mark.parametrize("make", [_own, _adapters])
@pytest.mark.parametrize("first", [8.0, 2.0**126])
def test_steps_are_counted_as_the_adapter_counts_them(make, first):
    with installed("newer"), tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope("", use_resource=True):
            update_of = make(first).update_loss_scale
        variables = tf.global_variables()
        assert [(v.op.name, v.dtype.base_dtype) for v in variables] == [
            ("loss_scale", tf.float32),
            ("good_steps", tf.int32),
            ("bad_steps", tf.int32),
        ]
        finite = tf.placeholder(tf.bool, [])
        update = update_of(finite)
        session.run(tf.global_variables_initializer())
        found = []
        for step in _STEPS:
            session.run(update, {finite: step})
            found.append(tuple(session.run(variables)))
    assert found == list(_expected(first))
