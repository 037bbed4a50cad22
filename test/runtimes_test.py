"""What the program writes with one release of TensorFlow, it reads with the other.

Needs both: .venv and .venv-2.15, as .ci/run makes them.
"""

import glob
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, TINY, digits_and_photos, flags, image_examples, write_shards

_ENVIRONMENTS = [os.path.join(ROOT, name) for name in (".venv", ".venv-2.15")]
_PYTHONS = [
    path for path in (f"{root}/bin/python" for root in _ENVIRONMENTS) if os.path.exists(path)
]
pytestmark = [
    pytest.mark.skipif(
        len(_PYTHONS) < 2,
        reason="needs both releases: RUNTIME=2.15 VENV=.venv-2.15 bash scripts/setup_env.sh",
    ),
    pytest.mark.xdist_group("runtimes"),
]

_IMAGES = 48
_FLAGS = flags(
    {
        **TINY,
        "accelerator": "cpu",
        "reduction_size": 8,
        "num_label_classes": 11,
        "train_batch_size": 8,
        "eval_batch_size": 16,
        "num_train_images": _IMAGES,
        "num_eval_images": _IMAGES,
        "lr": 0.01,
        "moving_average_decay": 0.9,
        "random_seed": 1,
    }
)
# What a SavedModel and a frozen graph answer, as JSON.
_ANSWERS = """
import json, sys
import numpy as np
from common.runtime import tf
saved_model, frozen_graph, images = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
with tf.Graph().as_default(), tf.Session() as session:
    signature = tf.saved_model.load(session, ["serve"], saved_model).signature_def["images"]
    output = signature.outputs["probabilities"].name
    answers = [session.run(output, {signature.inputs["images"].name: images})]
with tf.Graph().as_default(), tf.Session() as session:
    graph_def = tf.GraphDef.FromString(open(frozen_graph, "rb").read())
    tf.import_graph_def(graph_def, name="")
    answers.append(session.run("predictions:0", {"input:0": images}))
print(json.dumps([answer.tolist() for answer in answers]))
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    examples = image_examples(*digits_and_photos())[:_IMAGES]
    for split in ("train", "validation"):
        write_shards(directory, split, [examples])
    return directory


def _program(python, *arguments):
    """Runs amoeba_net.py with a tiny network under a Python; returns its log."""
    done = subprocess.run(
        [python, os.path.join(ROOT, "amoeba_net.py"), *_FLAGS, *arguments],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def _last_record(model_dir):
    with open(os.path.join(model_dir, "results.json")) as file:
        return json.load(file)[-1]


def _answers(python, export_dir, images):
    (saved_model,) = glob.glob(os.path.join(export_dir, "[0-9]*"))
    frozen_graph = os.path.join(export_dir, "frozen_graph.pb")
    done = subprocess.run(
        [python, "-c", _ANSWERS, saved_model, frozen_graph, images],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [np.array(answer) for answer in json.loads(done.stdout)]


@pytest.mark.parametrize("first, second", [(0, 1), (1, 0)])
def test_checkpoints_and_exports_cross_over(data_dir, tmp_path, first, second):
    first, second = _PYTHONS[first], _PYTHONS[second]
    model, export = str(tmp_path / "model"), str(tmp_path / "export")
    data = f"--data_dir={data_dir}"
    train = [data, f"--model_dir={model}", "--mode=train"]
    _program(first, *train, "--train_steps=2")
    log = _program(second, *train, "--train_steps=4")
    assert _last_record(model)["global_step"] == 4 and "model.ckpt-2" in log

    # Both evaluate what the second wrote.
    metrics = []
    for python in (first, second):
        _program(python, data, f"--model_dir={model}", "--mode=eval", "--checkpoint_path=" + model)
        record = _last_record(model)
        assert record["kind"] == "eval" and record["global_step"] == 4
        metrics.append(record["metrics"])
    assert metrics[0]["top_1_accuracy"] == metrics[1]["top_1_accuracy"]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], abs=1e-4)

    # The first goes on from it with other classes, and what it exports both answer alike.
    fine_tune = [data, f"--model_dir={tmp_path / 'tuned'}", f"--init_checkpoint={model}"]
    _program(
        first,
        *fine_tune,
        *["--mode=train", "--train_steps=1", "--init_exclude=/FC/", f"--export_dir={export}"],
        "--export_format=saved_model,frozen_graph",
    )
    images = str(tmp_path / "images.npy")
    size = TINY["image_size"]
    np.save(images, np.random.RandomState(0).uniform(-1, 1, [4, size, size, 3]).astype(np.float32))
    (saved, frozen), others = (_answers(python, export, images) for python in (first, second))
    np.testing.assert_allclose(frozen, saved, atol=1e-4)
    for answer in others:
        np.testing.assert_allclose(answer, saved, atol=1e-4)


def test_this_release_is_the_environments():
    """The test above is of two releases, and one of them is this one."""
    versions = {os.path.basename(glob.glob(f"{root}/lib/python3*")[0]) for root in _ENVIRONMENTS}
    assert len(versions) == 2 and f"python3.{sys.version_info.minor}" in versions
