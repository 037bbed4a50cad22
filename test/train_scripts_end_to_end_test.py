"""The ModelZoo's training scripts with the real program."""

import os
import re
import subprocess

import helpers
import pytest
from npu_stand_in.installed import PATH
from training_scripts import Copy, case_log

from common import results

_TINY = helpers.flags(
    {
        **helpers.TINY,
        "reduction_size": 8,
        "image_size": 32,
        "num_label_classes": 11,
        "eval_batch_size": 4,
        "lr": 0.05,
    }
)


def _last(pattern, text):
    return re.findall(pattern, text)[-1]


@pytest.mark.slow
def test_scripts_end_to_end(tmp_path):
    """One as the ModelZoo's harness runs it, on the NPU's stand-in; one edited, on the CPU."""
    copy = Copy(tmp_path / "repository")
    images, labels = helpers.digits_and_photos()
    for split in ("train", "validation"):
        examples = helpers.image_examples(images[:16], labels)
        helpers.write_shards(copy.data, split, [examples])
    model = str(tmp_path / "model")
    status, printed = copy.run(
        "test/train_full_1p.sh",
        f"--data_path={copy.data}",
        f"--output_path={model}",
        "--batch_size=4",
        "--train_epochs=1",
        "--",
        "--num_train_images=16",
        "--num_eval_images=16",
        "--accelerator=npu",
        *_TINY,
        PYTHONPATH=PATH,
        ASCEND_DEVICE_ID="1",
        TF_CPP_MIN_LOG_LEVEL="0",  # At a higher one the adapter keeps its line to itself.
    )
    assert status == 0, printed
    assert "INFO NOTICE" in printed
    training, evaluation = results.read_results(model)
    speed = training["images_per_second"]["median"]
    assert float(_last(r"images/sec : (\S+)", printed)) == pytest.approx(speed, rel=1e-6)
    seconds = training["seconds_per_step"]
    assert float(_last(r"sec/step : (\S+)", printed)) == pytest.approx(seconds, rel=1e-6)
    top_1 = evaluation["metrics"]["top_1_accuracy"]
    assert float(_last(r"Train Accuracy : (\S+)", printed)) == pytest.approx(top_1, rel=1e-6)
    case = "AmoebaNet-D_ID2073_for_TensorFlow_bs4_1p_acc"
    log = case_log(copy.output("1", f"{case}.log", below="test"))
    loss = training["metrics"]["loss"]
    assert float(log["ActualLoss"]) == pytest.approx(loss, rel=1e-6)
    losses = copy.output("1", f"train_{case}_loss.txt", below="test").split()
    assert [float(x) for x in losses] == pytest.approx([loss], rel=1e-6)

    edited = os.path.join(copy.scripts, "train_performance_1p.sh")
    settings = f"s|^DATA_DIR=.*|DATA_DIR={copy.data}|;s|^MODEL_DIR=.*|MODEL_DIR={tmp_path}/other|"
    subprocess.run(["sed", "-i", settings, edited], check=True)
    record = str(tmp_path / "calls")
    arguments = ["--", "--train_steps=5", "--train_batch_size=4", "--accelerator=cpu", *_TINY]
    status, printed = copy.run(
        "train_performance_1p.sh", *arguments, PYTHONPATH=PATH, NPU_STAND_IN_RECORD=record
    )
    assert status == 0, printed
    assert "ERROR NOTICE" in printed and "Final Performance images/sec : " in printed
    assert not os.path.exists(record), "the adapter was imported on the CPU"
    records = results.read_results(str(tmp_path / "other"))
    assert [(r["kind"], r["global_step"]) for r in records] == [("train", 5)]
