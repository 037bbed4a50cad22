"""The shares of an evaluation together are the evaluation: images, loss and accuracies."""

import pytest

import amoeba_net_model
from common.devices.cpu import Cpu
from common.distribution.shares import Shares

_NAMES = ("loss", "top_1_accuracy", "top_5_accuracy")


def _evaluate(tiny_model, hparams, size=1, rank=0):
    pipeline = amoeba_net_model.InputPipeline(
        False, tiny_model.data_dir, hparams, sharding=lambda: (size, rank)
    )
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, tiny_model.model_dir)
    found = (
        Cpu()
        .estimator(model.model_fn, tiny_model.model_dir, 1)
        .evaluate(
            pipeline.input_fn,
            steps=amoeba_net_model.num_eval_batches(hparams),
            checkpoint_path=tiny_model.checkpoint,
        )
    )
    loss, images = amoeba_net_model.mean_loss(found["loss"], hparams, pipeline.num_images)
    assert images == pipeline.num_images == hparams.num_eval_images
    return images, {**{name: float(found[name]) for name in _NAMES}, "loss": float(loss)}


@pytest.mark.xdist_group("tiny_model")
def test_shares_add_up_to_the_whole(tiny_model, tmp_path):
    """Of 57 images, so that the shares differ in size and neither fills its last batch."""
    hparams = amoeba_net_model.HParams(**tiny_model.hparams.values())
    hparams.num_eval_images = 57
    whole = _evaluate(tiny_model, hparams)
    ranks = [Shares(str(tmp_path), 2, rank, timeout=600) for rank in range(2)]
    parts = [
        _evaluate(
            tiny_model, amoeba_net_model.share_of_evaluation(hparams, 2, rank), size=2, rank=rank
        )
        for rank in range(2)
    ]
    assert [images for images, _ in parts] == [29, 28]
    ranks[1].deliver(tiny_model.checkpoint, *parts[1])
    images, means = ranks[0].collect(tiny_model.checkpoint, *parts[0])
    assert images == whole[0] == 57
    assert means == {name: pytest.approx(whole[1][name], rel=1e-5) for name in _NAMES}


def test_images_that_an_evaluation_drops_are_in_no_share():
    hparams = amoeba_net_model.default_hparams()
    hparams.num_eval_images, hparams.eval_batch_size = 57, 16
    hparams.eval_drop_remainder = True
    shares = [amoeba_net_model.share_of_evaluation(hparams, 5, rank) for rank in range(5)]
    assert [share.num_eval_images for share in shares] == [10, 10, 10, 9, 9]
    assert hparams.num_eval_images == 57
