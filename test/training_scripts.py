"""What tests of the ModelZoo's training scripts share: a copy of them, and a pretended program."""

import json
import os
import shlex
import shutil
import subprocess
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = (
    "train_full_1p.sh",
    "train_full_8p.sh",
    "train_performance_1p.sh",
    "train_performance_8p.sh",
)

# Where the scripts look for the NPU's device files: nowhere, whatever this host has.
DEVICES = "/nowhere"

# Stands where amoeba_net.py does: writes down how it was called, and results.
PRETENDED = """
import json, os, signal, sys, time
received = []

def stop_in_order(number, frame):
    received.append(number)
    time.sleep(1 + 0.3 * int(rank))
    with open(f"{model}/signals_{rank}", "w") as f:
        f.write(str(len(received)))
    sys.exit(75 if len(received) == 1 else 99)

flags = dict(a[2:].split("=", 1) for a in sys.argv[1:] if "=" in a)
model, rank = flags["model_dir"], os.environ.get("RANK_ID", "0")
os.makedirs(model, exist_ok=True)
kept = ("RANK_", "JOB_", "ASCEND_", "HCCL_", "FAKE_")
with open(f"{model}/call_{rank}.json", "w") as f:
    json.dump([flags, {k: v for k, v in os.environ.items() if k.startswith(kept)}, os.getcwd()], f)
if "accelerator" in flags:
    print("Rank 0 of 1, Ascend adapter v1.15.0 (npu_bridge).")
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0" and "old" not in flags:
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


class Copy:
    """The scripts in a directory of their own, so that output and edits touch nothing else.

    Args:
        root: the directory; it is made.
        program: what stands in for amoeba_net.py; None for the real one.

    Attributes:
        root, scripts: the copy, and its scripts/.
        data: a directory for the data set.
        adapter: a directory with an Ascend adapter that cannot be imported, only found.
    """

    def __init__(self, root, program=None):
        self.root = str(root)
        self.scripts = os.path.join(self.root, "scripts")
        os.makedirs(self.scripts)
        os.makedirs(os.path.join(self.root, "test"))
        for name in (*NAMES, "train_common.sh", "modelzoo_report.py", "make_rank_table.py"):
            shutil.copy(os.path.join(_ROOT, "scripts", name), self.scripts)
        self._hide_devices()
        for name in NAMES:
            for link in (name, os.path.join("test", name)):
                target = os.readlink(os.path.join(_ROOT, link))
                os.symlink(target, os.path.join(self.root, link))
        os.symlink(os.path.join(_ROOT, "common"), os.path.join(self.root, "common"))
        # The interpreter of the tests, whatever it is called.
        write_interpreter(os.path.join(self.root, ".venv", "bin", "python"))
        path = os.path.join(self.root, "amoeba_net.py")
        if program is None:
            os.symlink(os.path.join(_ROOT, "amoeba_net.py"), path)
        else:
            with open(path, "w") as f:
                f.write(program)
        self.data = os.path.join(self.root, "data")
        os.makedirs(self.data)
        self.adapter = write_package(os.path.join(self.root, "adapter"), "npu_bridge")

    def _hide_devices(self):
        path = os.path.join(self.scripts, "train_common.sh")
        with open(path) as file:
            text = file.read()
        assert "device_files='/dev/" in text
        with open(path, "w") as file:
            file.write(text.replace("device_files='/dev/", f"device_files='{DEVICES}/"))

    def start(self, name, *arguments, cwd="/", **environment):
        path = os.path.relpath(os.path.join(self.root, name), cwd)
        return self._start([path, *arguments], cwd, environment)

    def _start(self, command, cwd, environment):
        mine = ("RANK_", "CM_", "JOB_", "ASCEND_", "HCCL_", "PYTHON")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(mine)}
        return subprocess.Popen(
            ["bash", *command],
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
        """(exit status, what was printed) of a script."""
        return _finish(self.start(name, *arguments, **kwargs))

    def run_changed(self, change, train, *arguments, **environment):
        """The same of a script that changes what train_common.sh defines.

        Args:
            change: commands between the definitions and the training.
            train: kind and number of devices.
        """
        common = os.path.join(self.scripts, "train_common.sh")
        script = f'source "{common}"\n{change}\ntrain {train} "$@"'
        return _finish(self._start(["-c", script, "script", *arguments], "/", environment))

    def call(self, model, rank=0):
        """[flags, environment, directory] of the pretended program."""
        with open(os.path.join(model, f"call_{rank}.json")) as f:
            return json.load(f)

    def output(self, *names, below="scripts"):
        with open(os.path.join(self.root, below, "output", *names)) as f:
            return f.read()


def _finish(process):
    printed = process.communicate(timeout=600)[0].decode()
    return process.returncode, printed


def write_interpreter(path, *options, **environment):
    """A program that runs the tests' interpreter with options, and variables in its environment."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    variables = " ".join(f"{name}='{value}'" for name, value in environment.items())
    python = shlex.quote(sys.executable)
    with open(path, "w") as f:
        f.write(f'#!/bin/sh\nexec env {variables} {python} {" ".join(options)} "$@"\n')
    os.chmod(path, 0o755)


def write_package(directory, name):
    """A package that ends whoever imports it; returns the directory for PYTHONPATH."""
    os.makedirs(os.path.join(directory, name))
    with open(os.path.join(directory, name, "__init__.py"), "w") as f:
        f.write("raise SystemExit(9)\n")
    return directory


def case_log(text):
    return dict(line.split(" = ") for line in text.splitlines())
