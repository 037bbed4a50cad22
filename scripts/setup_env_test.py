"""The set-up chooses an interpreter and a release of TensorFlow; here with stand-ins for Python."""

import glob
import os
import shutil
import subprocess

import pytest
from helpers import ROOT

# A Python of version 3.x that can only make an environment with itself in it, and install into it.
_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-V "*) echo Python 3.{0}.1 ;;
  "-c "*) echo 3.{0} ;;
  "-m venv") mkdir -p "$4/bin" && touch "$4/pyvenv.cfg" && cp "$0" "$4/bin/python" ;;
  "-m pip") case "$*" in *requirements*) echo "$@" >>"$INSTALLED" ;; esac ;;
esac
"""

_TOOLS = (
    *("bash", "cat", "chmod", "cksum", "cp", "dirname", "flock", "ls", "mkdir", "rm", "sh"),
    *("touch", "uname"),
)


@pytest.fixture
def set_up(tmp_path):
    """Runs the set-up with these minor versions of Python 3 on PATH; returns what it did."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in _TOOLS:
        os.symlink(shutil.which(name), str(tools / name))
    project = tmp_path / 'it\'s "the" $HOME *'
    os.makedirs(str(project / "scripts"))
    for path in glob.glob(os.path.join(ROOT, "requirements*.txt")):
        shutil.copy(path, str(project))
    script = shutil.copy(os.path.join(ROOT, "scripts", "setup_env.sh"), str(project / "scripts"))

    def run(*versions, machine="x86_64", **variables):
        bin_directory = tmp_path / "bin"
        shutil.rmtree(str(bin_directory), ignore_errors=True)
        bin_directory.mkdir()
        programs = {f"python3.{version}": _PYTHON.format(version) for version in versions}
        programs["uname"] = f"#!/bin/sh\necho {machine}\n"
        for name, text in programs.items():
            (bin_directory / name).write_text(text)
            (bin_directory / name).chmod(0o755)
        environment = {
            "PATH": f"{bin_directory}:{tools}",
            "HOME": str(tmp_path),
            "INSTALLED": str(tmp_path / "installed"),
            **variables,
        }
        return subprocess.run(
            ["bash", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    run.installed = lambda: (tmp_path / "installed").read_text().splitlines()
    run.python = lambda version: str(tmp_path / "bin" / f"python3.{version}")
    return run


@pytest.mark.parametrize(
    "versions, release, version",
    [
        ((7,), "1.15", 7),
        ((7, 11), "2.15", 11),
        ((9, 12), "2.15", 9),
        ((9, 10, 11, 13), "2.15", 11),
    ],
)
def test_release_follows_from_the_pythons_there_are(set_up, versions, release, version):
    done = set_up(*versions)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Creating ") and lines[0].endswith(f"/python3.{version}")
    assert lines[1].startswith(f"TensorFlow {release} on Python 3.{version}.1, in ")
    requirements = "requirements.txt" if release == "1.15" else "requirements-2.15.txt"
    assert set_up.installed()[0].endswith(f"/{requirements}") and len(set_up.installed()) == 1
    # What is there stays, and nothing is installed again.
    again = set_up(*versions).stdout.splitlines()
    assert again == [lines[1]] and len(set_up.installed()) == 1


def test_choosing_the_release_makes_another_environment(set_up):
    assert "TensorFlow 2.15 on Python 3.11.1" in set_up(7, 11).stdout
    assert "TensorFlow 1.15 on Python 3.7.1" in set_up(7, 11, RUNTIME="1.15").stdout
    assert "Creating" not in set_up(7, 11).stdout  # Either release will do.
    assert "TensorFlow 2.15 on Python 3.11.1" in set_up(7, 11, RUNTIME="2.15").stdout
    assert "Python 3.10.1" in set_up(7, 10, 11, PYTHON=set_up.python(10)).stdout


@pytest.mark.parametrize("name", ["precious", "precious//", "linked", "linked/"])
def test_directory_of_something_else_is_not_emptied(set_up, tmp_path, name):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("whole")
    os.symlink(str(tmp_path / "precious"), str(tmp_path / "linked"))
    done = set_up(11, VENV=f"{tmp_path}/{name}")
    assert (
        done.returncode == 1
        and "has other files than an environment's: it would be emptied" in done.stderr
    )
    assert (tmp_path / "precious" / "file").read_text() == "whole"


def test_environment_is_made_where_nothing_can_be_locked(set_up, tmp_path):
    flock = tmp_path / "tools" / "flock"
    flock.unlink()
    os.symlink(shutil.which("false"), str(flock))
    done = set_up(11)
    assert done.returncode == 0 and ".venv.lock cannot be locked: see to it" in done.stderr
    assert len(set_up.installed()) == 1


def test_file_system_that_runs_no_programs(set_up, tmp_path):
    chmod = tmp_path / "tools" / "chmod"  # Where it does nothing, the kernel refuses as there.
    chmod.unlink()
    os.symlink(shutil.which("true"), str(chmod))
    done = set_up(11)
    assert done.returncode == 1 and "runs no programs (noexec): make the" in done.stderr
    assert not (tmp_path / "installed").exists()


def test_gpu_installs_cudas_libraries(set_up):
    assert set_up(7, 11, GPU="1").returncode == 0
    assert set_up.installed()[0].endswith("/requirements-2.15.txt tensorflow[and-cuda]==2.15.1")
    for variables in ({}, {"GPU": "1"}):
        assert set_up(7, 11, **variables).returncode == 0
    assert len(set_up.installed()) == 1  # Nothing was installed again.


def test_other_processors_have_the_newer_release_only(set_up):
    assert "TensorFlow 2.15" in set_up(7, 9, machine="aarch64").stdout
    done = set_up(7, 9, machine="aarch64", RUNTIME="1.15")
    assert done.returncode == 1 and "no packages for aarch64" in done.stderr


@pytest.mark.parametrize(
    "versions, variables, message",
    [
        ((6, 8, 12), {}, "no Python found that TensorFlow 1.15 or 2.15 runs on"),
        ((12,), {"RUNTIME": "1.15"}, "uv python install 3.7"),
        ((12,), {}, "uv python install 3.11"),
        ((11,), {"RUNTIME": "2.6"}, "RUNTIME=2.6: expected 1.15 or 2.15"),
        ((11,), {"GPU": "yes"}, "GPU=yes: expected 1"),
        ((7,), {"GPU": "1", "RUNTIME": "1.15"}, "GPU=1 needs RUNTIME=2.15"),
        ((11,), {"PYTHON": "/no/such/python"}, "PYTHON=/no/such/python is not a Python with venv"),
    ],
)
def test_wrong_choices_end_with_a_sentence(set_up, versions, variables, message):
    done = set_up(*versions, **variables)
    assert done.returncode == 1 and message in done.stderr
