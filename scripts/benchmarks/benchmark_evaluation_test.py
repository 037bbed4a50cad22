"""The benchmark of evaluation's and predictions' overhead: what it measures, not how fast."""

import contextlib

import pytest

from common.runtime import tf
from scripts.benchmarks import benchmark_evaluation, benchmark_train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("photos"))
    benchmark_evaluation.make_data(directory, 16)
    return directory


@pytest.mark.parametrize("part", ["network", "evaluation", "prediction"])
def test_steps_of_every_part(data, part):
    """Each goes on after the last of the photographs."""
    sizes = {"num_cells": 2, "reduction_size": 4, "image_size": 40, "batch_size": 8}
    hparams = benchmark_train.hparams_of(sizes)
    # Predictions come from a graph of their own, which stays open between two of them.
    with contextlib.nullcontext() if part == "prediction" else tf.Graph().as_default():
        step = benchmark_evaluation._STEPS[part](hparams, data)
        for _ in range(4):
            step()
    del step  # Ends the reading of photographs.


def test_share_is_the_median_of_turns():
    seconds = {"network": [1.0, 1.0, 1.0], "evaluation": [2.0, 1.25, 1.0]}
    network, evaluation = benchmark_evaluation._rows(seconds, batch_size=5)
    assert network["network_share"] == 1.0 and evaluation["network_share"] == 0.8
    assert (evaluation["lowest_share"], evaluation["highest_share"]) == (0.5, 1.0)
    assert evaluation["images_per_second"] == 4.0
