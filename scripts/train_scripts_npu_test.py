"""The ModelZoo's training scripts on NPUs that are not there: which Python, several devices."""

import functools
import json
import os
import re
import signal
import subprocess
import time

import pytest
from training_scripts import (
    DEVICES,
    PRETENDED,
    Copy,
    case_log,
    write_interpreter,
    write_package,
)

from common.devices import rank_table

_NPU = ["--", "--accelerator=npu"]
# The name of the network by the directory whose output/ has the files.
_NETWORKS = [
    ("scripts", "AmoebaNet-D_for_TensorFlow"),
    ("test", "AmoebaNet-D_ID2073_for_TensorFlow"),
]


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path / "repository", PRETENDED)


# Which Python ------------------------------------------------------------------------------------


@pytest.fixture
def pythons(copy):
    """Interpreters by name, all without the adapter; those of PATH, .venv, and one elsewhere."""
    found = os.path.join(copy.root, "bin")
    paths = {name: os.path.join(found, name) for name in ("python3.7", "python3", "python")}
    paths[".venv"] = os.path.join(copy.root, ".venv", "bin", "python")
    paths["named"] = os.path.join(copy.root, "elsewhere", "python")
    for name, path in paths.items():
        write_interpreter(path, FAKE_PYTHON=name)
    return paths


def _train(copy, *arguments, **environment):
    """(exit status, what was printed, the interpreter that trained)."""
    path = f"{copy.root}/bin:{os.environ['PATH']}"
    model = os.path.join(copy.root, "model")
    arguments = [f"--data_path={copy.data}", f"--output_path={model}", *arguments]
    status, printed = copy.run("train_full_1p.sh", *arguments, PATH=path, **environment)
    return status, printed, copy.call(model)[1]["FAKE_PYTHON"] if status == 0 else None


def _give_adapter(pythons, name, adapter):
    write_interpreter(pythons[name], FAKE_PYTHON=name, PYTHONPATH=adapter)


@pytest.mark.parametrize("package", ["npu_bridge", "npu_device"])
@pytest.mark.parametrize("name", [".venv", "python3.7", "python3", "python", "named"])
def test_npu_takes_the_python_that_has_the_adapter(name, package, copy, pythons, tmp_path):
    """Which is found, not imported: the package here ends who imports it."""
    _give_adapter(pythons, name, write_package(str(tmp_path / package), package))
    status, printed, used = _train(copy, *_NPU, PYTHON=pythons["named"])
    assert (status, used) == (0, name), printed
    assert f"Python with the Ascend adapter: {pythons[name]}" in printed


def test_python_that_is_named_goes_first(copy, pythons):
    for name in pythons:
        _give_adapter(pythons, name, copy.adapter)
    assert _train(copy, *_NPU, PYTHON=pythons["named"])[2] == "named"
    assert _train(copy, *_NPU)[2] == "python3.7"
    assert _train(copy, PYTHON=pythons["named"])[2] == "named"
    status, printed, _ = _train(copy, PYTHON="/nowhere/python")
    assert status == 1 and "[Error] PYTHON=/nowhere/python: there is no such program" in printed


def test_npu_without_an_adapter_stops(copy, pythons, tmp_path):
    os.makedirs(tmp_path / "npu_bridge")  # In the current directory it is nobody's.
    os.makedirs(tmp_path / "tensorflow")
    # Without site-packages there is no TensorFlow, which the adapter needs.
    write_interpreter(pythons["python3"], "-S", PYTHONPATH=copy.adapter)
    status, printed, _ = _train(copy, *_NPU, PYTHON=pythons["named"], cwd=str(tmp_path))
    assert status == 1, printed
    (error,) = [line for line in printed.splitlines() if line]
    assert error.startswith("[Error] training on the NPU needs a Python with TensorFlow and the")
    assert f"none of {pythons['named']} python3.7 python3 python {pythons['.venv']} has" in error
    assert "set_env.sh" in error and "PYTHON=" in error and "--accelerator=cpu" in error


@pytest.mark.parametrize("flags", [[], ["--", "--accelerator=cpu"]])
def test_without_npu_no_adapter_is_needed(flags, copy, pythons):
    assert _train(copy, *flags)[::2] == (0, ".venv")


@pytest.mark.parametrize(
    "file, flags, on_npu",
    [
        ("davinci0", [], True),
        ("davinci11", ["--accelerator=npu"], True),
        ("davinci0", ["--accelerator=cpu"], False),
        ("davinci0", ["-accelerator", "cpu"], False),
        ("davinci0", ["--accelerator=cpu", "--accelerator=auto"], True),
        ("davinci_manager", [], False),
    ],
)
def test_npu_is_one_with_a_device_file(file, flags, on_npu, copy, tmp_path):
    (tmp_path / file).touch()
    change = f"device_files='{tmp_path}'${{device_files#{DEVICES}}}"
    model = str(tmp_path / "model")
    arguments = [f"--data_path={copy.data}", f"--output_path={model}", "--", *flags]
    status, printed = copy.run_changed(change, "acc 1", *arguments, PYTHONPATH=copy.adapter)
    assert status == 0, printed
    assert ("Python with the Ascend adapter" in printed) == on_npu


# Several devices ---------------------------------------------------------------------------------


@pytest.fixture
def eight(copy, tmp_path):
    """Environment of eight devices."""
    table = tmp_path / "table.json"
    table.write_text(json.dumps(rank_table.make("127.0.0.1", range(8), ["192.168.1.1"] * 8)))
    return {"RANK_TABLE_FILE": str(table), "PYTHONPATH": copy.adapter}


def test_eight_processes_each_with_its_rank(copy, eight, tmp_path):
    model = str(tmp_path / "model")
    arguments = [f"--data_path={copy.data}", f"--output_path={model}", *_NPU]
    status, printed = copy.run("train_full_8p.sh", *arguments, **eight)
    assert status == 0, printed
    for rank in range(8):
        flags, variables, _ = copy.call(model, rank)
        assert flags["train_batch_size"] == "512"
        assert variables == {
            "RANK_SIZE": "8",
            "RANK_ID": str(rank),
            "JOB_ID": "10087",
            "ASCEND_DEVICE_ID": str(rank),
            "RANK_TABLE_FILE": eight["RANK_TABLE_FILE"],
            "HCCL_CONNECT_TIMEOUT": "1800",
            "HCCL_EXEC_TIMEOUT": "1836",
        }
        assert copy.output(str(rank), f"train_{rank}.log")

    crash = ["--fail_rank=5", "--wait=3600"]  # The others have to be stopped.
    status, printed = copy.run("train_full_8p.sh", *arguments, *crash, **eight)
    assert status == 7 and "Final" not in printed
    for device in "0", "7":
        # The log of the training before is kept; the last ranks may not have been started.
        names = set(os.listdir(os.path.join(copy.scripts, "output", device)))
        before = {f"train_{device}.log.old"}
        assert before <= names <= before | {f"train_{device}.log"}


@pytest.mark.parametrize("below, network", _NETWORKS)
def test_files_of_eight_are_with_the_first_and_the_last(below, network, copy, eight):
    script = os.path.join("test" if below == "test" else "", "train_performance_8p.sh")
    status, printed = copy.run(script, f"--data_path={copy.data}", *_NPU, **eight)
    assert status == 0, printed
    case = f"{network}_bs64_8p_perf"
    for device in "0", "7":
        log = case_log(copy.output(device, f"{case}.log", below=below))
        assert (log["CaseName"], log["RankSize"], log["BatchSize"]) == (case, "8", "64")
        assert copy.output(device, f"train_{case}_loss.txt", below=below) == "2.5\n1.5\n"
    model = os.path.join(copy.root, below, "output", "0", "performance")
    for rank in range(8):
        flags = copy.call(model, rank)[0]
        assert (flags["mode"], flags["num_epochs"]) == ("train", "1")
        assert (flags["num_train_images"], flags["train_batch_size"]) == ("20000", "512")


@pytest.mark.parametrize("argument", ["--bind_core=True", "--bind_core", "--bind_core=False"])
def test_cores_are_split_between_the_processes(argument, copy, eight, tmp_path):
    """What a test stands in for: a machine with the cores 8 to 30, and what binds to them."""
    taskset = tmp_path / "taskset"
    taskset.write_text('#!/bin/sh\nexport FAKE_CORES="$2"\nshift 2\nexec "$@"\n')
    taskset.chmod(0o755)
    bound = argument != "--bind_core=False"
    model = str(tmp_path / "model")
    status, printed = copy.run_changed(
        "list_cores() { cores=({8..30}); }",
        *["acc 8", f"--data_path={copy.data}", f"--output_path={model}", argument, *_NPU],
        **eight,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    assert status == 0, printed
    cores = [copy.call(model, rank)[1].get("FAKE_CORES") for rank in range(8)]
    expected = [f"{8 + 2 * rank},{9 + 2 * rank}" for rank in range(8)]
    assert cores == (expected if bound else [None] * 8)
    suffix = "_bindcore" if bound else ""
    case = f"AmoebaNet-D_for_TensorFlow{suffix}_bs64_8p_acc"
    assert f"CaseName = {case}\n" in copy.output("7", f"{case}.log")


def test_cores_are_those_the_process_may_run_on(copy):
    def list_cores(change, **kwargs):
        script = (
            f'source "{copy.scripts}/train_common.sh"\n{change}\nlist_cores\necho ${{cores[*]}}'
        )
        return subprocess.check_output(["bash", "-c", script], **kwargs).decode().split()

    assert list_cores("sed() { echo 0-2,5,8-10; }") == ["0", "1", "2", "5", "8", "9", "10"]
    allowed = os.sched_getaffinity(0)
    assert {int(core) for core in list_cores("")} == allowed
    one = {max(allowed)}
    bind = functools.partial(os.sched_setaffinity, 0, one)
    assert {int(core) for core in list_cores("", preexec_fn=bind)} == one


def test_fewer_cores_than_processes_are_not_bound(copy, eight, tmp_path):
    model = str(tmp_path / "model")
    arguments = [f"--data_path={copy.data}", f"--output_path={model}", "--bind_core=True", *_NPU]
    change = "list_cores() { cores=(0 1 2); }"
    status, printed = copy.run_changed(change, "acc 8", *arguments, **eight)
    assert status == 0, printed
    assert printed.count("[Warning] --bind_core: 3 cores for 8 processes, so none is bound") == 1


def test_without_npus_one_process_has_the_images_of_eight(copy, tmp_path):
    model = str(tmp_path / "model")
    status, _ = copy.run("train_full_8p.sh", f"--data_path={copy.data}", f"--output_path={model}")
    assert status == 0
    flags, variables, _ = copy.call(model)
    assert (flags["train_batch_size"], variables["RANK_SIZE"]) == ("512", "1")
    assert sorted(os.listdir(model)) == ["call_0.json", "results.json"]


@pytest.mark.parametrize("whole", [True, False])
def test_training_that_stops_in_order_gets_one_signal_and_passes_its_status_on(
    whole, copy, eight, tmp_path
):
    """The signal goes to the script, or to one of the processes."""
    model = str(tmp_path / "model")
    process = copy.start(
        *["train_full_8p.sh", f"--data_path={copy.data}", f"--output_path={model}"],
        *[*_NPU, "--wait=3600", "--stops=1"],
        **eight,
    )
    while not all(os.path.exists(os.path.join(model, f"waits_{rank}")) for rank in range(8)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    if whole:
        process.send_signal(signal.SIGTERM)
    else:
        pid = re.search(r"Rank 3 of 8: process (\d+)", copy.wait_for(process, "Rank 7 ")).group(1)
        os.kill(int(pid), signal.SIGTERM)
    printed = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 75
    assert "saved; the same command goes on from there" in printed and "Final" not in printed
    for rank in range(8):
        with open(os.path.join(model, f"signals_{rank}")) as file:
            assert file.read() == "1"
