"""How a program starts and ends."""

import pytest

from common import process


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
