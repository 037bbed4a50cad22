"""The ModelZoo's training scripts: with a program that only pretends, and end to end."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from npu_stand_in.installed import PATH
from PIL import Image

from common import results
from common.data import tfrecords
from common.devices import rank_table

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FILES = (
    "train_common.sh",
    "train_full_1p.sh",
    "train_full_8p.sh",
    "train_performance_1p.sh",
    "modelzoo_report.py",
    "make_rank_table.py",
)

# Stands where amoeba_net.py does: writes down how it was called, and results.
_PRETENDED = """
import json, os, signal, sys, time
received = []

def stop_in_order(number, frame):
    received.append(number)
    time.sleep(1)
    sys.exit(75 if len(received) == 1 else 99)

flags = dict(a[2:].split("=", 1) for a in sys.argv[1:])
model, rank = flags["model_dir"], os.environ.get("RANK_ID", "0")
os.makedirs(model, exist_ok=True)
names = ("RANK_SIZE", "RANK_ID", "JOB_ID", "ASCEND_DEVICE_ID", "RANK_TABLE_FILE")
with open(f"{model}/call_{rank}.json", "w") as f:
    json.dump([flags, {n: os.environ.get(n) for n in names}, os.getcwd()], f)
if "accelerator" in flags:
    print("The model has been compiled on the Ascend AI processor")
if flags.get("fail_rank") == rank:
    print("it went wrong")
    sys.exit(7)
if flags.get("stops"):
    signal.signal(signal.SIGTERM, stop_in_order)
    open(f"{model}/waits_{rank}", "w").close()
if flags.get("wait"):
    time.sleep(float(flags["wait"]))
now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
speed = {"images_per_second": {"median": 265.25}, "seconds_per_step": 0.2412818}
train = {"kind": "train", "time": now, "metrics": {"loss": 1.5}, "losses": [[100, 2.5], [150, 1.5]]}
accuracy = {"top_1_accuracy": 0.75600195, "top_5_accuracy": 0.9269366}
records = [{**train, **speed}]
if flags["mode"] == "train_and_eval":
    records.append({"kind": "eval", "time": now, "metrics": accuracy})
if rank == "0":
    with open(f"{model}/results.json", "w") as f:
        json.dump(records, f)
"""


class _Copy:
    """The scripts in a directory of their own, so that output and edits touch nothing else."""

    def __init__(self, root, program=None):
        self.root = str(root)
        self.scripts = os.path.join(self.root, "scripts")
        os.makedirs(self.scripts)
        for name in _FILES:
            shutil.copy(os.path.join(_ROOT, "scripts", name), self.scripts)
        for name in ("train_full_1p.sh", "train_performance_1p.sh", "train_full_8p.sh"):
            os.symlink(os.path.join("scripts", name), os.path.join(self.root, name))
        os.symlink(os.path.join(_ROOT, "common"), os.path.join(self.root, "common"))
        # The interpreter of the tests, whatever it is called.
        os.makedirs(os.path.join(self.root, ".venv", "bin"))
        python = os.path.join(self.root, ".venv", "bin", "python")
        with open(python, "w") as f:
            f.write(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        os.chmod(python, 0o755)
        path = os.path.join(self.root, "amoeba_net.py")
        if program is None:
            os.symlink(os.path.join(_ROOT, "amoeba_net.py"), path)
        else:
            with open(path, "w") as f:
                f.write(program)
        self.data = os.path.join(self.root, "data")
        os.makedirs(self.data)

    def start(self, name, *arguments, cwd="/", **environment):
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("RANK_", "CM_", "JOB_", "ASCEND_"))
        }
        return subprocess.Popen(
            ["bash", os.path.join(self.root, name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**kept, **environment},
        )

    def wait_for(self, process, text):
        """What a process prints, up to the line that begins with a text."""
        printed = ""
        while not printed.splitlines()[-1:] or not printed.splitlines()[-1].startswith(text):
            line = process.stdout.readline().decode()
            assert line, printed
            printed += line
        return printed

    def run(self, name, *arguments, **kwargs):
        """(exit status, what was printed)."""
        process = self.start(name, *arguments, **kwargs)
        printed = process.communicate()[0].decode()
        return process.returncode, printed

    def call(self, model, rank=0):
        """[flags, environment, directory] of the pretended program."""
        with open(os.path.join(model, f"call_{rank}.json")) as f:
            return json.load(f)

    def output(self, *names):
        with open(os.path.join(self.scripts, "output", *names)) as f:
            return f.read()


@pytest.fixture
def copy(tmp_path):
    return _Copy(tmp_path / "repository", _PRETENDED)


def _case_log(text):
    return dict(line.split(" = ") for line in text.splitlines())


# What the scripts do around a training -----------------------------------------------------------


def test_harness_arguments_reach_the_program(copy, tmp_path):
    model = str(tmp_path / "model")
    status, printed = copy.run(
        "train_full_1p.sh",
        f"--data_path={copy.data}",
        f"--output_path={model}",
        "--batch_size=32",
        "--train_epochs=3",
        "--train_steps=90",
        "--precision_mode=force_fp32",
        "--profiling=True",
        "--over_dump=False",
        "--data_dump_flag=True",
        "--data_dump_step=0|5-10",
        "--autotune=True",
        "--bind_core=False",
        "--",
        "--num_cells=2",
        ASCEND_DEVICE_ID="3",
    )
    assert status == 0, printed
    flags, environment, directory = copy.call(model)
    device = os.path.join(copy.scripts, "output", "3")
    assert flags == {
        "data_dir": copy.data,
        "model_dir": model,
        "train_batch_size": "32",
        "image_size": "224",
        "lr": "2.56",
        "lr_decay_value": "0.88",
        "lr_warmup_epochs": "0.35",
        "iterations_per_loop": "1251",
        "mode": "train_and_eval",
        "num_epochs": "3",
        "train_steps": "90",
        "precision_mode": "force_fp32",
        "profile_dir": f"{device}/profiling",
        "dump_dir": f"{device}/data_dump",
        "dump_step": "0|5-10",
        "aoe_mode": "2",
        "num_cells": "2",
    }
    assert environment == {
        "RANK_SIZE": "1",
        "RANK_ID": "0",
        "JOB_ID": "10087",
        "ASCEND_DEVICE_ID": "3",
        "RANK_TABLE_FILE": None,
    }
    assert directory == "/"


def test_lines_and_files_of_a_full_training(copy, tmp_path):
    status, printed = copy.run(
        "train_full_1p.sh",
        f"--data_path={copy.data}",
        f"--output_path={tmp_path / 'model'}",
        "--",
        "--accelerator=npu",
    )
    assert status == 0, printed
    lines = printed.splitlines()
    assert lines[-7:-1] == [
        "Top-1 Accuracy : 0.756002",
        "Top-5 Accuracy : 0.9269366",
        "------------------ Final result ------------------",
        "Final Performance images/sec : 265.25",
        "Final Performance sec/step : 0.2412818",
        "Final Train Accuracy : 0.756002",
    ]
    assert re.fullmatch(r"E2E Training Duration sec : \d+", lines[-1])
    assert lines.index("INFO: this training used the Ascend NPU.") < len(lines) - 7
    case = "AmoebaNet-D_for_TensorFlow_bs64_1p_acc"
    log = _case_log(copy.output("0", f"{case}.log"))
    assert log.pop("E2ETrainingTime") == lines[-1].split()[-1]
    assert log == {
        "Network": "AmoebaNet-D_for_TensorFlow",
        "RankSize": "1",
        "BatchSize": "64",
        "DeviceType": os.uname().machine,
        "CaseName": case,
        "ActualFPS": "265.25",
        "TrainingTime": "241.2818",
        "TrainAccuracy": "0.756002",
        "ActualLoss": "1.5",
        "Top1Accuracy": "0.756002",
        "Top5Accuracy": "0.9269366",
    }
    assert copy.output("0", f"train_{case}_loss.txt") == "2.5\n1.5\n"
    assert "compiled on the Ascend" in copy.output("0", "train_0.log")


def test_settings_at_the_top_of_the_script(copy, tmp_path):
    """Edited through the link at the root, which sed makes a file."""
    path = os.path.join(copy.root, "train_performance_1p.sh")
    settings = [f"s|^DATA_DIR=.*|DATA_DIR={copy.data}|", f"s|^MODEL_DIR=.*|MODEL_DIR={tmp_path}/m|"]
    subprocess.run(["sed", "-i", ";".join(settings), path], check=True)
    status, printed = copy.run("train_performance_1p.sh", cwd=copy.root)
    assert status == 0, printed
    flags = copy.call(str(tmp_path / "m"))[0]
    assert (flags["mode"], flags["num_epochs"]) == ("train", "1")
    assert (flags["num_train_images"], flags["num_eval_images"]) == ("20000", "1000")
    assert "this training did not use the Ascend NPU" in printed
    assert "Final Train Accuracy : NA" in printed
    assert os.path.exists(
        os.path.join(copy.scripts, "output", "0", "AmoebaNet-D_for_TensorFlow_bs64_1p_perf.log")
    )


def test_checkpoints_are_left_for_a_resume(copy, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "checkpoint").write_text("kept")
    copy.run("train_full_1p.sh", f"--data_path={copy.data}", f"--output_path={model}")
    assert (model / "checkpoint").read_text() == "kept"


def test_speed_is_measured_anew_each_time(copy):
    for _ in range(2):
        status, printed = copy.run("train_performance_1p.sh", f"--data_path={copy.data}")
        assert status == 0, printed
        model = os.path.join(copy.scripts, "output", "0", "performance")
        assert copy.call(model)[0]["mode"] == "train"
        assert not os.path.exists(os.path.join(model, "earlier"))
        open(os.path.join(model, "earlier"), "w").close()


@pytest.mark.parametrize("name", ["train_full_1p.sh", "train_performance_1p.sh"])
def test_crash_is_the_scripts_status_and_prints_no_results(name, copy, tmp_path):
    arguments = [f"--data_path={copy.data}", f"--output_path={tmp_path / 'model'}"]
    assert copy.run(name, *arguments)[0] == 0
    status, printed = copy.run(name, *arguments, "--", "--fail_rank=0")
    assert status == 7
    assert "it went wrong" in printed and "Final" not in printed
    left = os.listdir(os.path.join(copy.scripts, "output", "0"))
    assert left == ["train_0.log"]


def test_termination_reaches_the_program(copy, tmp_path):
    model = str(tmp_path / "model")
    process = copy.start(
        "train_full_1p.sh", f"--data_path={copy.data}", f"--output_path={model}", "--", "--wait=60"
    )
    while not os.path.exists(os.path.join(model, "call_0.json")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("whole", [True, False])
def test_training_that_stops_in_order_gets_one_signal_and_passes_its_status_on(
    whole, copy, tmp_path
):
    """The signal goes to the script, or to one of the processes."""
    model, table = str(tmp_path / "model"), tmp_path / "table.json"
    table.write_text(json.dumps(rank_table.make("127.0.0.1", range(8), ["192.168.1.1"] * 8)))
    process = copy.start(
        *["train_full_8p.sh", f"--data_path={copy.data}", f"--output_path={model}"],
        *["--", "--accelerator=npu", "--wait=60", "--stops=1"],
        RANK_TABLE_FILE=str(table),
    )
    while not all(os.path.exists(os.path.join(model, f"waits_{rank}")) for rank in range(8)):
        time.sleep(0.1)
    if whole:
        process.send_signal(signal.SIGTERM)
    else:
        pid = re.search(r"Rank 3 of 8: process (\d+)", copy.wait_for(process, "Rank 7 ")).group(1)
        os.kill(int(pid), signal.SIGTERM)
    printed = process.communicate(timeout=50)[0].decode()
    assert process.returncode == 75
    assert "saved; the same command goes on from there" in printed and "Final" not in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], '[Error] para "data_path" must be config'),
        (["--data_path=/nowhere"], "[Error] data_path: there is no directory /nowhere"),
        (["--data_path=/", "--batch_size=x"], "[Error] --batch_size=x"),
        (["--data_path=/", "--speed=9"], "[Error] unknown argument --speed=9"),
        (["--data_path=/", "--over_dump=True", "--data_dump_flag=True"], "one or the other"),
        (["--data_path=/", "--profiling=perhaps"], "[Error] --profiling=perhaps"),
    ],
)
def test_arguments_that_are_wrong(arguments, message, copy):
    status, printed = copy.run("train_full_1p.sh", *arguments)
    assert status == 1 and message in printed and "Final" not in printed


def test_help(copy):
    for option in ("-h", "--help"):
        status, printed = copy.run("train_full_1p.sh", option)
        assert status == 0 and printed.startswith("Usage: bash train_full_1p.sh")


# Several devices ---------------------------------------------------------------------------------


def test_eight_processes_each_with_its_rank(copy, tmp_path):
    model, table = str(tmp_path / "model"), tmp_path / "table.json"
    table.write_text(json.dumps(rank_table.make("127.0.0.1", range(8), ["192.168.1.1"] * 8)))
    arguments = [f"--data_path={copy.data}", f"--output_path={model}", "--bind_core=True"]
    environment = {"RANK_TABLE_FILE": str(table)}
    npu = ["--", "--accelerator=npu"]
    status, printed = copy.run("train_full_8p.sh", *arguments, *npu, **environment)
    assert status == 0, printed
    for rank in range(8):
        flags, variables, _ = copy.call(model, rank)
        assert flags["train_batch_size"] == "512"
        assert variables == {
            "RANK_SIZE": "8",
            "RANK_ID": str(rank),
            "JOB_ID": "10087",
            "ASCEND_DEVICE_ID": str(rank),
            "RANK_TABLE_FILE": str(table),
        }
        assert copy.output(str(rank), f"train_{rank}.log")
    log = _case_log(copy.output("0", "AmoebaNet-D_for_TensorFlow_bs64_8p_acc.log"))
    assert (log["RankSize"], log["BatchSize"]) == ("8", "64")

    crash = [*npu, "--fail_rank=5", "--wait=60"]
    started = time.time()
    status, printed = copy.run("train_full_8p.sh", *arguments, *crash, **environment)
    assert status == 7 and "Final" not in printed
    assert time.time() - started < 50  # The others were stopped.


def test_without_npus_one_process_has_the_images_of_eight(copy, tmp_path):
    model = str(tmp_path / "model")
    status, _ = copy.run("train_full_8p.sh", f"--data_path={copy.data}", f"--output_path={model}")
    assert status == 0
    flags, variables, _ = copy.call(model)
    assert (flags["train_batch_size"], variables["RANK_SIZE"]) == ("512", "1")
    assert sorted(os.listdir(model)) == ["call_0.json", "results.json"]


# End to end --------------------------------------------------------------------------------------

_TINY = [
    "--num_cells=2",
    "--reduction_size=8",
    "--stem_reduction_size=4",
    "--image_size=32",
    "--use_aux_head=False",
    "--num_label_classes=11",
    "--eval_batch_size=4",
    "--lr=0.05",
]


def _write_data(directory):
    pixels = np.random.RandomState(0).randint(0, 255, (16, 24, 24, 3), np.uint8)
    for split in ("train", "validation"):
        examples = []
        for i, image in enumerate(pixels):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG")
            label = i % 10 + 1
            examples.append(tfrecords.image_example(buffer.getvalue(), label, height=24, width=24))
        path = os.path.join(directory, tfrecords.shard_name(split, 0, 1))
        tfrecords.write_shard(path, examples)


def _last(pattern, text):
    return re.findall(pattern, text)[-1]


@pytest.mark.xdist_group("train_scripts")
def test_scripts_end_to_end(tmp_path):
    """The full one with arguments on the NPU's stand-in; the other, edited, on the CPU."""
    copy = _Copy(tmp_path / "repository")
    _write_data(copy.data)
    model = str(tmp_path / "model")
    status, printed = copy.run(
        "train_full_1p.sh",
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
    case = "AmoebaNet-D_for_TensorFlow_bs4_1p_acc"
    log = _case_log(copy.output("0", f"{case}.log"))
    loss = training["metrics"]["loss"]
    assert float(log["ActualLoss"]) == pytest.approx(loss, rel=1e-6)
    losses = copy.output("0", f"train_{case}_loss.txt").split()
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
