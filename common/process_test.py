"""How a program starts and ends."""

import io

import pytest

from common import process
from common.runtime import tf


def test_flag_file_that_is_not_text(tmp_path):
    path = tmp_path / "a.flags"
    path.write_bytes(b"--v=\xff\xfe\n")
    with pytest.raises(SystemExit, match=r"a\.py: --flagfile: the file cannot be read: .*utf-8"):
        process.parse_flags(["/x/a.py", f"--flagfile={path}"])


def test_flag_files_in_flag_files(tmp_path):
    for i in range(2000):
        (tmp_path / f"{i}").write_text(f"--flagfile={tmp_path}/{i + 1}\n")
    with pytest.raises(SystemExit, match="--flagfile: the file cannot be read: maximum recursion"):
        process.parse_flags(["/x/a.py", f"--flagfile={tmp_path}/0"])


def test_ctrl_c_is_no_traceback(capsys):
    with pytest.raises(SystemExit) as ended, process.exiting_with_a_sentence("/x/a.py"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "a.py: interrupted.\n"


def test_letters_that_the_terminal_has_not(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", terminal)
    process.set_up()
    print("a \u732b", end="", flush=True)
    assert terminal.buffer.getvalue() == rb"a \u732b"


def test_too_large_for_the_device(graph):
    with pytest.raises(tf.errors.ResourceExhaustedError) as found, tf.Session() as session:
        session.run(tf.fill([10**6, 10**9], tf.placeholder_with_default(1.0, [])))
    for model_dir in (None, "/"):
        with pytest.raises(SystemExit) as ended:
            with process.exiting_with_a_sentence("/x/a.py", model_dir):
                raise found.value
        assert ended.value.code.startswith(
            "a.py: CPU:0 has no memory left for a tensor with shape[1000000,1000000000]. Use a sma"
        )
