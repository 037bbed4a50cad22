"""The ModelZoo's training scripts, with a program that only pretends to train."""

import os
import re
import signal
import subprocess
import time

import pytest
from training_scripts import NAMES, PRETENDED, Copy, case_log

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path / "repository", PRETENDED)


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
        "HCCL_CONNECT_TIMEOUT": "1800",
        "HCCL_EXEC_TIMEOUT": "1836",
    }
    assert directory == "/"


def test_arguments_of_other_entries_are_ignored_with_a_warning(copy, tmp_path):
    model = str(tmp_path / "model")
    status, printed = copy.run(
        "train_full_1p.sh",
        *["--ffts", "--conf_path=/conf", f"--data_path={copy.data}", "--server_index=0"],
        *[f"--output_path={model}", "2", "--batch_size=32"],
    )
    assert status == 0, printed
    for argument in ("--ffts", "--conf_path=/conf", "--server_index=0", "2"):
        assert f"[Warning] unknown argument {argument}: it is ignored" in printed
    flags = copy.call(model)[0]
    assert flags["train_batch_size"] == "32"
    assert not {"ffts", "conf_path", "server_index"} & set(flags)


def test_switch_without_a_value_is_on(copy, tmp_path):
    model = str(tmp_path / "model")
    arguments = [f"--data_path={copy.data}", f"--output_path={model}"]
    status, printed = copy.run("train_full_1p.sh", *arguments, "--profiling", "--autotune")
    assert status == 0, printed
    flags = copy.call(model)[0]
    assert flags["profile_dir"].endswith("output/0/profiling") and flags["aoe_mode"] == "2"


def test_times_that_devices_wait_are_the_callers(copy, tmp_path):
    model = str(tmp_path / "model")
    times = {"HCCL_CONNECT_TIMEOUT": "7200", "HCCL_EXEC_TIMEOUT": "3604"}
    copy.run("train_full_1p.sh", f"--data_path={copy.data}", f"--output_path={model}", **times)
    environment = copy.call(model)[1]
    assert {name: environment[name] for name in times} == times


def test_lines_and_files_of_a_full_training(copy, tmp_path):
    status, printed = copy.run(
        "train_full_1p.sh",
        f"--data_path={copy.data}",
        f"--output_path={tmp_path / 'model'}",
        "--",
        "--accelerator=npu",
        PYTHONPATH=copy.adapter,
        TF_CPP_MIN_LOG_LEVEL="2",  # The adapter's line would be missing.
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
    log = case_log(copy.output("0", f"{case}.log"))
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


def test_npu_is_noticed_with_an_adapter_that_does_not_log_it(copy, tmp_path):
    arguments = [f"--data_path={copy.data}", f"--output_path={tmp_path / 'model'}"]
    status, printed = copy.run(
        *["train_performance_1p.sh", *arguments, "--", "--accelerator=npu", "--old=True"],
        PYTHONPATH=copy.adapter,
        TF_CPP_MIN_LOG_LEVEL="2",
    )
    assert status == 0, printed
    assert "INFO: this training used the Ascend adapter." in printed
    assert "ERROR" not in printed and "compiled" not in copy.output("0", "train_0.log")


def test_one_device_needs_no_rank_table(copy, tmp_path):
    """Another training's table, of eight devices, may still be in the shell."""
    arguments = [f"--data_path={copy.data}", f"--output_path={tmp_path / 'model'}"]
    status, printed = copy.run("train_performance_1p.sh", *arguments, RANK_TABLE_FILE="8p.json")
    assert status == 0, printed
    assert "RANK_TABLE_FILE" not in copy.call(str(tmp_path / "model"))[1]


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
    arguments = [f"--data_path={copy.data}", f"--output_path={model}", "--", "--wait=3600"]
    process = copy.start("train_full_1p.sh", *arguments)
    while not os.path.exists(os.path.join(model, "call_0.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], '[Error] para "data_path" must be config'),
        (["--data_path=/nowhere"], "[Error] data_path: there is no directory /nowhere"),
        (["--data_path=/", "--batch_size=x"], "[Error] --batch_size=x"),
        (["--data_path=/", "--over_dump=True", "--data_dump_flag=True"], "one or the other"),
        (["--data_path=/", "--profiling=perhaps"], "[Error] --profiling=perhaps"),
    ],
)
def test_arguments_that_are_wrong(arguments, message, copy):
    status, printed = copy.run("train_full_1p.sh", *arguments)
    assert status == 1 and message in printed and "Final" not in printed


@pytest.mark.parametrize("device", ["npu0", "08", "-1"])
def test_device_that_is_no_number(device, copy):
    status, printed = copy.run(
        "train_full_1p.sh", f"--data_path={copy.data}", ASCEND_DEVICE_ID=device
    )
    assert status == 1 and f"[Error] ASCEND_DEVICE_ID={device}" in printed


def test_help(copy):
    for option in ("-h", "--help"):
        status, printed = copy.run("train_full_1p.sh", option)
        assert status == 0 and printed.startswith("Usage: bash train_full_1p.sh")


# As the ModelZoo's harness starts them -----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_in_the_root_and_in_test(name):
    script = os.path.join(_ROOT, "scripts", name)
    for directory in (_ROOT, os.path.join(_ROOT, "test")):
        assert os.path.samefile(os.path.join(directory, name), script)
        assert os.access(os.path.join(directory, name), os.X_OK)


@pytest.mark.parametrize("directory", [".", "/", "test"])
@pytest.mark.parametrize("edited", [False, True])
def test_output_in_test_under_the_entrys_name(edited, directory, copy):
    """From any directory, whether the script is a link or a file that sed made of it."""
    path = os.path.join(copy.root, "test", "train_performance_1p.sh")
    arguments = [f"--data_path={copy.data}"]
    if edited:
        subprocess.run(["sed", "-i", f"s|^DATA_DIR=.*|DATA_DIR={copy.data}|", path], check=True)
        assert not os.path.islink(path)
        arguments = []
    cwd = os.path.join(copy.root, directory)
    name = "test/train_performance_1p.sh"
    status, printed = copy.run(name, *arguments, cwd=cwd, ASCEND_DEVICE_ID="3")
    assert status == 0, printed
    case = "AmoebaNet-D_ID2073_for_TensorFlow_bs64_1p_perf"
    below = os.path.join(copy.root, "test", "output", "3")
    left = {"train_3.log", f"{case}.log", f"train_{case}_loss.txt", "performance"}
    assert set(os.listdir(below)) == left
    log = case_log(copy.output("3", f"{case}.log", below="test"))
    assert (log["Network"], log["CaseName"]) == ("AmoebaNet-D_ID2073_for_TensorFlow", case)
    assert copy.call(os.path.join(below, "performance"))[0]["mode"] == "train"
    assert not os.path.exists(os.path.join(copy.scripts, "output"))
