import json
import os
import subprocess
import sys

import pytest

from common.devices import rank_table

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_rank_table.py")


def _run(*arguments):
    """(exit status, what was printed)."""
    done = subprocess.run(
        [sys.executable, _PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


@pytest.fixture
def hccn_conf(tmp_path):
    path = tmp_path / "hccn.conf"
    path.write_text("".join(f"address_{i}=192.168.100.{101 + i}\n" for i in range(8)))
    return f"--hccn_conf={path}"


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_table_that_is_made_passes_the_check(devices, hccn_conf, tmp_path):
    table = tmp_path / "table.json"
    assert _run(f"--devices={devices}", hccn_conf, f"--output={table}") == (0, "")
    assert _run(f"--devices={devices}", f"--check={table}")[0] == 0
    rank_table.check_file(str(table), devices)
    (server,) = json.loads(table.read_text())["server_list"]
    assert server["device"][-1]["device_ip"] == f"192.168.100.{100 + devices}"


def test_table_that_does_not_fit(hccn_conf, tmp_path):
    table = tmp_path / "table.json"
    _run("--devices=8", hccn_conf, f"--output={table}")
    status, printed = _run("--devices=4", f"--check={table}")
    assert status == 1 and "it lists 8 devices, RANK_SIZE is 4" in printed
    assert "scripts/make_rank_table.py makes a right one" in printed
    table.write_text("{")
    assert "cannot be read as JSON" in _run("--devices=4", f"--check={table}")[1]


def test_addresses_that_are_not_there(hccn_conf, tmp_path):
    output = f"--output={tmp_path / 'table.json'}"
    status, printed = _run("--devices=8", "--hccn_conf=/nowhere", output)
    assert status == 1 and "give --device_ips" in printed
    status, printed = _run("--devices=8", "--first_device=2", hccn_conf, output)
    assert status == 1 and "no address of device 8, 9" in printed
    assert _run("--devices=3", hccn_conf, output)[0] != 0
    assert not os.path.exists(tmp_path / "table.json")
