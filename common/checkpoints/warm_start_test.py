"""What a training takes from another one's checkpoint, and what not."""

import numpy as np
import pytest

from common.checkpoints import warm_start
from common.devices.cpu import CpuSession
from common.errors import UserError
from common.runtime import tf

_SHAPES = {"stem/w": [3, 4], "stem/mean": [4], "cell/w": [4, 4], "cell/v": [2], "head/FC/w": [4, 6]}
_THERE = {**_SHAPES, "head/FC/w": [4, 11], "global_step": [], "cell/w/Momentum": [4, 4]}


def _averages(shapes):
    return {f"{name}/ExponentialMovingAverage": shape for name, shape in shapes.items()}


def test_averages_are_taken_and_raw_values_where_there_are_none():
    available = {**_THERE, **_averages(_THERE)}
    del available["stem/mean/ExponentialMovingAverage"]
    choice = warm_start.choose(_SHAPES, available)
    assert choice.taken == {
        "stem/w": "stem/w/ExponentialMovingAverage",
        "stem/mean": "stem/mean",
        "cell/w": "cell/w/ExponentialMovingAverage",
        "cell/v": "cell/v/ExponentialMovingAverage",
    }
    assert choice.left_out == {"head/FC/w": warm_start.OTHER_SHAPE}
    raw = warm_start.choose(_SHAPES, available, averages=False)
    assert raw.taken == {name: name for name in choice.taken}


def test_reasons_to_leave_out():
    available = {**_THERE, "cell/w": [4, 5]}
    del available["stem/mean"]
    choice = warm_start.choose(_SHAPES, available, exclude="FC/|v$")
    assert choice.taken == {"stem/w": "stem/w"}
    assert choice.left_out == {
        "stem/mean": warm_start.MISSING,
        "cell/w": warm_start.OTHER_SHAPE,
        "cell/v": warm_start.EXCLUDED,
        "head/FC/w": warm_start.EXCLUDED,
    }


@pytest.mark.parametrize(
    "taken, missing, excluded, fits",
    [(30, 10, 0, True), (29, 11, 0, False), (3, 1, 96, True), (0, 0, 10, False), (0, 0, 0, False)],
)
def test_how_much_must_fit(taken, missing, excluded, fits):
    left_out = {f"m{i}": warm_start.MISSING for i in range(missing)}
    left_out.update((f"e{i}", warm_start.EXCLUDED) for i in range(excluded))
    assert warm_start.Choice({f"t{i}": f"t{i}" for i in range(taken)}, left_out).fits() == fits


class _Source:
    """A checkpoint of _THERE with averages that are their variables plus 100."""

    def __init__(self, directory):
        self.values = {name: np.full(shape, i) for i, (name, shape) in enumerate(_THERE.items())}
        with tf.Graph().as_default(), CpuSession() as session:
            for name, value in self.values.items():
                tf.get_variable(name, initializer=tf.constant(value, tf.float32))
                average = tf.constant(value + 100, tf.float32)
                tf.get_variable(f"{name}/ExponentialMovingAverage", initializer=average)
            session.run(tf.global_variables_initializer())
            self.path = tf.train.Saver().save(session, f"{directory}/model.ckpt", 7)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return _Source(str(tmp_path_factory.mktemp("source")))


def _variables(shapes=None):
    return [
        tf.get_variable(name, shape, use_resource=True)
        for name, shape in (shapes or _SHAPES).items()
    ]


def test_values_are_loaded_by_the_scaffold_and_nothing_is_added_to_the_graph(source):
    with tf.Graph().as_default() as graph:
        variables = _variables()
        choice = warm_start.plan(source.path, variables)
        sources = {v: choice.taken[v.op.name] for v in variables if v.op.name in choice.taken}
        load = warm_start.init_fn(source.path, sources)
        with CpuSession() as session:
            session.run(tf.variables_initializer(variables))
            old = session.run({v.op.name: v for v in variables})
            operations = len(graph.get_operations())
            load(None, session)
            assert len(graph.get_operations()) == operations
            new = session.run({v.op.name: v for v in variables})
    for name in choice.taken:
        np.testing.assert_array_equal(new[name], source.values[name] + 100)
    np.testing.assert_array_equal(new["head/FC/w"], old["head/FC/w"])


def test_log_says_what_was_taken_and_what_not_and_why(source, log):
    with tf.Graph().as_default():
        warm_start.plan(source.path, _variables(), exclude="cell/v")
    lines = [message.strip() for message in log.messages]
    assert lines == [
        f"Starting from {source.path}:",
        "3 variables taken: 3 moving averages, 0 raw values",
        "1 left out, excluded by --init_exclude: cell/v",
        "1 left out, of another shape in the checkpoint: head/FC/w ([4, 11], here [4, 6])",
    ]


def test_checkpoint_of_another_network(source):
    shapes = {name: [9, *shape] for name, shape in _SHAPES.items()}
    with tf.Graph().as_default(), pytest.raises(UserError) as error:
        warm_start.plan(source.path, _variables(shapes), advice=lambda: "Use --width=9.")
    assert str(error.value) == (
        f"--init_checkpoint: {source.path} is of another network: only 0 of 5 variables fit. "
        "stem/w, for one, has shape [9, 3, 4] here and [3, 4] there. Use --width=9."
    )


def test_expression_that_excludes_nothing_or_all(source):
    with tf.Graph().as_default():
        variables = _variables()
        with pytest.raises(UserError, match="--init_exclude=logits matches none of the 5 var"):
            warm_start.plan(source.path, variables, exclude="logits")
        with pytest.raises(UserError, match="--init_exclude leaves nothing to take"):
            warm_start.plan(source.path, variables, exclude=".")


def test_damaged_checkpoint(source, tmp_path):
    for suffix in (".index", ".data-00000-of-00001"):
        with open(source.path + suffix, "rb") as f:
            content = f.read()
        kept = content if suffix == ".index" else content[: len(content) // 2]
        (tmp_path / f"cut.ckpt{suffix}").write_bytes(kept)
    with tf.Graph().as_default(), CpuSession() as session:
        variables = _variables()
        load = warm_start.init_fn(f"{tmp_path}/cut.ckpt", {v: v.op.name for v in variables[:4]})
        with pytest.raises(UserError, match="is damaged or not all there"):
            load(None, session)
