"""Files that appear whole or not at all, and locks."""

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys

import pytest
from helpers import ROOT

from common import files


# As a local path, and as one of a file system that only TensorFlow knows.
@pytest.fixture(params=["", "file://"])
def directory(request, tmp_path):
    return f"{request.param}{tmp_path}"


def test_a_file_is_replaced_as_a_whole(directory, tmp_path):
    files.write_text(f"{directory}/names.txt", "café\n")
    assert (tmp_path / "names.txt").read_bytes() == "café\n".encode()
    with pytest.raises(RuntimeError), files.replacing(f"{directory}/names.txt") as temporary:
        files.write_bytes(temporary, b"half")
        assert (tmp_path / "names.txt").read_bytes() == "café\n".encode()
        raise RuntimeError
    assert (tmp_path / "names.txt").read_bytes() == "café\n".encode()
    files.write_bytes(f"{directory}/names.txt", b"new")
    assert (tmp_path / "names.txt").read_bytes() == b"new"
    assert os.listdir(str(tmp_path)) == ["names.txt"]


def test_a_directory_appears_as_a_whole(directory, tmp_path):
    for fails in (True, False):
        try:
            with files.replacing(f"{directory}/model") as temporary:
                os.mkdir(temporary.replace("file://", ""))
                files.write_text(f"{temporary}/part", "")
                assert not os.path.exists(str(tmp_path / "model"))
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert os.listdir(str(tmp_path)) == []
    assert os.listdir(str(tmp_path)) == ["model"]
    files.remove(f"{directory}/model")
    files.remove(f"{directory}/model")
    assert os.listdir(str(tmp_path)) == []


def test_temporary_names_are_recognised_and_not_guessed():
    paths = {files.temporary_path("gs://bucket/train-00000-of-00001") for _ in range(100)}
    assert len(paths) == 100
    for path in paths:
        folder, name = os.path.split(path)
        assert folder == "gs://bucket" and files.is_temporary(name)
    for name in ("train-00000-of-00001", "x.tmp-12-", ".tmp", "checkpoint"):
        assert not files.is_temporary(name)


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        files.write_text(str(tmp_path / "file"), "")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(str(tmp_path / "file")).st_mode) == mode


def _write_too_much(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        files.write_bytes(path, bytes(100_000))
    except OSError as error:
        os._exit(error.errno if error.filename == path else 255)


def test_errors_name_the_file_and_leave_nothing(tmp_path):
    path = str(tmp_path / "file")
    process = multiprocessing.get_context("fork").Process(target=_write_too_much, args=[path])
    process.start()
    process.join()
    assert process.exitcode == errno.EFBIG
    assert os.listdir(str(tmp_path)) == []
    for wrong in (f"{tmp_path}/absent/file", "/dev/null/file"):
        with pytest.raises(OSError) as error:
            files.write_text(wrong, "")
        assert error.value.filename == wrong


_HOLDER = """
import sys, time
from common import files
with files.locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["", "lock"])
def test_a_lock_is_free_when_its_process_has_been_killed(name, tmp_path):
    path = os.path.join(str(tmp_path), name)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, path], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(files.LockedError) as error:
            with files.locked(path, seconds=0.2):
                pass
        wanted = f"process {holder.pid} on " if name else "another process"
        assert str(error.value).startswith(wanted)
    finally:
        holder.kill()
        holder.wait()
    with files.locked(path, seconds=0):
        with pytest.raises(files.LockedError), files.locked(path, seconds=0):
            pass
    with files.locked(path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, log):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    for _ in range(2):
        with files.locked(str(tmp_path)):
            pass
    (message,) = log.messages
    assert message.startswith(f"{tmp_path} cannot be locked (No locks available): see to it that")
    with files.locked("gs://bucket/model"):
        pass


def test_light_programs_do_not_wait_for_tensorflow(tmp_path):
    code = (
        "import sys; from common import files; files.write_text(sys.argv[1], ''); "
        "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    path = str(tmp_path / "file")
    subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=True)
    assert os.path.exists(path)


def test_names_as_text():
    assert files.printable("a b\udcff\n\x1b\u2028中") == "a b\\xff\\n\\x1b\\u2028中"
    assert files.valid_text("a b\udcff\n\x1b中") == "a b\\xff\n\x1b中"


def test_longest_names(tmp_path):
    path = str(tmp_path / ("x" * 251 + ".txt"))
    files.write_text(path, "whole")
    assert os.listdir(str(tmp_path)) == [os.path.basename(path)]
    files.write_text(str(tmp_path / ("猫" * 85)), "whole")


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_permissions_are_what_the_umask_says(tmp_path, umask):
    old = os.umask(umask)
    try:
        files.make_directory(str(tmp_path / "a" / "b"))
        files.write_text(str(tmp_path / "a" / "b" / "file"), "text")
        with files.locked(str(tmp_path / "a" / "lock")):
            pass
    finally:
        os.umask(old)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.glob("**/*")}
    directory, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes == {"a": directory, "b": directory, "file": file, "lock": file}


def test_lock_that_is_a_symbolic_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("whole")
    os.symlink(str(tmp_path / "precious"), str(tmp_path / "lock"))
    with pytest.raises(OSError, match="symbolic links"):
        with files.locked(str(tmp_path / "lock")):
            pass
    assert (tmp_path / "precious").read_text() == "whole"


def test_a_pipe_is_written_to_and_stays(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(path, "x")
    assert os.read(reader, 9) == b"x"
    os.close(reader)
    assert stat.S_ISFIFO(os.stat(path).st_mode)


def test_standard_output_is_written_to(tmp_path):
    program = "from common import files; files.write_text('/dev/stdout', 'x')"
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "x"
    assert os.path.islink("/dev/stdout")
