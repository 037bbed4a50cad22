"""Evaluation by several ranks, without the evaluation."""

import pytest

from common.distribution.shares import Shares
from common.errors import UserError


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "model.ckpt-7.index").write_text("index")
    return str(tmp_path / "model.ckpt-7")


def test_rank_0_has_the_means_over_all_images(tmp_path, checkpoint):
    ranks = [Shares(str(tmp_path), 3, rank, timeout=600) for rank in range(3)]
    ranks[1].deliver(checkpoint, 3, {"loss": 2.0, "top_1_accuracy": 1.0}, {"of": [1]})
    ranks[2].deliver(checkpoint, 2, {"loss": 4.0, "top_1_accuracy": 0.5}, {"of": [2]})
    own, details = {"loss": 1.0, "top_1_accuracy": 0.0}, []
    images, means = ranks[0].collect(checkpoint, 3, own, details.append)
    assert details == [{"of": [1]}, {"of": [2]}]
    assert images == 8
    assert means == {"loss": 17.0 / 8, "top_1_accuracy": 0.5}
    assert not list((tmp_path / "evaluation_shares").iterdir())


def test_a_share_of_an_earlier_checkpoint_of_the_same_name_does_not_count(tmp_path, checkpoint):
    ranks = [Shares(str(tmp_path), 2, rank, timeout=0.5) for rank in range(2)]
    ranks[1].deliver(checkpoint, 3, {"loss": 2.0})
    (tmp_path / "model.ckpt-7.index").write_text("index of another checkpoint")
    with pytest.raises(UserError, match=r"Rank 0 waited .* for rank 1 to evaluate its share"):
        ranks[0].collect(checkpoint, 3, {"loss": 1.0})


def test_a_rank_waits_for_the_checkpoint_until_it_is_stopped(tmp_path):
    class StoppedError(Exception):
        pass

    def check(calls=[]):  # noqa: B006 (it counts)
        calls.append(None)
        if len(calls) == 3:
            (tmp_path / "model.ckpt-7.index").write_text("index")
        if len(calls) == 4:
            raise StoppedError

    shares = Shares(str(tmp_path), 2, 1, timeout=600, check=check)
    path = str(tmp_path / "model.ckpt-7")
    assert shares.checkpoint(path) == path
    with pytest.raises(StoppedError):
        shares.checkpoint(str(tmp_path / "model.ckpt-8"))
