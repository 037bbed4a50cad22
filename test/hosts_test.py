"""Training on hosts with addresses of their own; scripts/faults/hosts.py has more faults."""

import re
import signal
import time

import helpers
import pytest

from common.hooks import interruption
from scripts.faults import network
from scripts.faults.host_training import NETWORK, Training

_ENDLESS = 10_000_000
_IMAGES = 32

pytestmark = pytest.mark.xdist_group("distribution")


@pytest.fixture
def hosts():
    """Two of them."""
    reason = network.missing()
    if reason:
        pytest.skip(reason)
    with network.Network(2) as hosts:
        yield hosts
        assert [hosts.processes(host) for host in range(2)] == [[], []]


@pytest.fixture
def training(hosts, tmp_path):
    images, labels = helpers.digits_and_photos()
    examples = helpers.image_examples(images[:_IMAGES], labels)
    for split in ("train", "validation"):
        helpers.write_shards(tmp_path / "data", split, helpers.deal(examples, 2))
    flags = [
        *["--mode=train", f"--data_dir={tmp_path}/data", *NETWORK, "--save_checkpoints_steps=20"],
        *["--num_label_classes=11", f"--num_train_images={_IMAGES}", "--stall_timeout=8"],
    ]
    training = Training(hosts, str(tmp_path), flags)
    yield training
    training.kill()


def test_all_hosts_stopped_for_a_while_and_then_a_cut_link(hosts, training):
    training.start(_ENDLESS, evaluator=False)
    training.wait_for_step(1)
    # Longer than --stall_timeout: only a process that waits for others may take this for a stall.
    for worker in training.workers:
        worker.signal(signal.SIGSTOP)
    time.sleep(10)
    stopped_at = training.step(0)
    for worker in training.workers:
        worker.signal(signal.SIGCONT)
    training.wait_for_step(stopped_at + 5)

    hosts.cables[1] = network.Cable(cut=True)
    training.wait_for_end(training.workers)
    for worker, other in zip(training.workers, (1, 0)):
        assert worker.status() == interruption.EXIT_STATUS
        name = re.escape(f"worker {other} ({hosts.address(other)}:2222)")
        # By its connections or by the steps, whichever is the first.
        lost = f"({name} does not answer any more|.* no answer from {name})"
        assert re.match(f"amoeba_net.py: {lost}. This process ends too; ", worker.last_line())
