import functools
import json

import pytest
from helpers import run

from common.devices import rank_table
from common.errors import UserError

_run = functools.partial(run, "scripts/make_rank_table.py")


@pytest.fixture
def hccn_conf(tmp_path):
    path = tmp_path / "hccn.conf"
    path.write_text("".join(f"address_{i}=192.168.100.{101 + i}\n" for i in range(8)))
    return f"--hccn_conf={path}"


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_table_that_is_made_passes_the_check(devices, hccn_conf, tmp_path):
    table = tmp_path / "table.json"
    assert _run(f"--devices={devices}", hccn_conf, f"--output={table}").log == ""
    _run(f"--devices={devices}", f"--check={table}")
    rank_table.check_file(str(table), devices)
    (server,) = json.loads(table.read_text())["server_list"]
    assert server["device"][-1]["device_ip"] == f"192.168.100.{100 + devices}"


def test_table_that_does_not_fit(hccn_conf, tmp_path):
    table = tmp_path / "table.json"
    _run("--devices=8", hccn_conf, f"--output={table}")
    printed = _run("--devices=4", f"--check={table}", status=1).log
    assert "it lists 8 devices, RANK_SIZE is 4" in printed
    assert "scripts/make_rank_table.py makes a right one" in printed
    table.write_text("{")
    assert "table.json is not valid JSON" in _run("--devices=4", f"--check={table}", status=1).log


def test_addresses_that_are_not_there(hccn_conf, tmp_path):
    output = f"--output={tmp_path / 'table.json'}"
    printed = _run("--devices=8", "--hccn_conf=/nowhere", output, status=1).log
    assert "give --device_ips" in printed
    printed = _run("--devices=8", "--first_device=2", hccn_conf, output, status=1).log
    assert "no address of device 8, 9" in printed
    _run("--devices=3", hccn_conf, output, status=2)
    assert not (tmp_path / "table.json").exists()
    printed = _run("--devices=1", "--device_ips=10.0.0.1", "--output=/absent/t", status=2).log
    assert "/absent/t: expected a file in a directory that exists" in printed


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ({"rank_id": "\u00b2"}, "expected rank_id to be a number as a string"),
        ({"rank_id": "9" * 5000}, "expected rank_id to be a number as a string"),
        ({"device_id": 0}, "expected device_id to be a number as a string, found 0"),
        ({"device_ip": 7}, "address, found 7"),
        ({"device_ip": ["::1"]}, "address, found \\['::1'\\]"),
    ],
)
def test_values_that_are_no_numbers_or_addresses(device, message):
    table = rank_table.make("127.0.0.1", [0, 1], ["192.168.100.101", "192.168.100.102"])
    table["server_list"][0]["device"][1].update(device)
    with pytest.raises(UserError, match=message):
        rank_table.check(table, 2)
