"""The hyper-parameters of trainings, as TensorBoard's own backend reads them."""

import os

import pytest

from common import hparams_tab
from common.runtime import tf

tensorboard = pytest.importorskip("tensorboard")


def _sessions(logdir):
    """{run: (hyper-parameters, metrics)}: what the HParams tab lists of a directory."""
    from tensorboard.backend.event_processing import plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING],
    )
    if tensorboard.__version__.startswith("1."):
        context = backend_context.Context(base_plugin.TBContext(multiplexer=multiplexer))
        handler = list_session_groups.Handler(context, request)
    else:
        from tensorboard import context as request_context
        from tensorboard.backend.event_processing import data_provider

        provider = data_provider.MultiplexerDataProvider(multiplexer, str(logdir))
        context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
        arguments = request_context.RequestContext(), context, "", request
        handler = list_session_groups.Handler(*arguments)
    found = {}
    for group in handler.run().session_groups:
        hparams = {k: getattr(v, v.WhichOneof("kind")) for k, v in group.hparams.items()}
        metrics = {(m.name.group, m.name.tag): m.value for m in group.metric_values}
        found[group.name] = hparams, metrics
    return found


def _add_scalars(directory, step, suffix="", **values):
    values = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    with tf.Graph().as_default():
        writer = tf.summary.FileWriter(str(directory), filename_suffix=suffix)
        # As a resumed session does, which makes TensorBoard forget later steps.
        status = tf.SessionLog(status=tf.SessionLog.START)
        writer.add_session_log(status, step)
        writer.add_summary(tf.Summary(value=values), step)
        writer.close()


def test_tensorboard_lists_hyper_parameters_and_metrics(tmp_path):
    hparams = {"lr": 2.5, "num_cells": 3, "use_aux_head": False, "init_exclude": None}
    for name, lr in [("a", 2.5), ("b", 0.5)]:
        hparams_tab.write(str(_made(tmp_path / name)), {**hparams, "lr": lr})
        _add_scalars(tmp_path / name, 0, loss=2.0)
        _add_scalars(tmp_path / name / "eval", 10, loss=1.5, top_1_accuracy=lr / 4)
    first = (tmp_path / "a" / hparams_tab.FILE_NAME).read_bytes()
    hparams_tab.write(str(tmp_path / "a"), hparams)  # Resumed as it was.
    assert (tmp_path / "a" / hparams_tab.FILE_NAME).read_bytes() == first
    hparams_tab.write(str(tmp_path / "b"), {**hparams, "lr": 0.25})  # Resumed with another one.
    _add_scalars(tmp_path / "b", 20, suffix=".resumed", loss=1.0)

    sessions = _sessions(tmp_path)
    shown = {"num_cells": 3.0, "use_aux_head": False}
    assert {name: found for name, (found, _) in sessions.items()} == {
        "a": {"lr": 2.5, **shown},
        "b": {"lr": 0.25, **shown},
    }
    for name, loss, accuracy in [("a", 2.0, 0.625), ("b", 1.0, 0.125)]:
        assert sessions[name][1] == {
            ("", "loss"): loss,
            ("eval", "loss"): 1.5,
            ("eval", "top_1_accuracy"): accuracy,
        }


def _made(directory):
    directory.mkdir()
    return directory


def test_a_damaged_file_is_replaced_and_a_failure_is_logged(tmp_path, log):
    hparams_tab.write(str(tmp_path), {"lr": 1.0})
    path = tmp_path / hparams_tab.FILE_NAME
    path.write_bytes(path.read_bytes()[:-5])
    hparams_tab.write(str(tmp_path), {"lr": 1.0})
    assert hparams_tab.read(str(tmp_path)) == {"lr": 1.0}
    hparams_tab.write_or_warn(str(tmp_path / "none" / "such"), {"lr": 1.0})
    assert "TensorBoard's HParams tab will not show this training" in log.text
    assert os.listdir(str(tmp_path)) == [hparams_tab.FILE_NAME]
