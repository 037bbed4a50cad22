"""Rank tables: the JSON files that tell the processes of a training which device is whose.

    {"version": "1.0", "status": "completed", "server_count": "1",
     "server_list": [{"server_id": "127.0.0.1", "device": [
       {"device_id": "0", "device_ip": "192.168.100.101", "rank_id": "0"}, ...]}]}

Ranks count from 0 over all servers, in the order of the list.
"""

import ipaddress
import json
from typing import Any, Dict, Sequence

from common.errors import UserError

DEVICES_PER_SERVER = (1, 2, 4, 8)


def make(server_id: str, device_ids: Sequence[int], device_ips: Sequence[str]) -> Dict[str, Any]:
    """The rank table of one server; ranks in the order given.

    Args:
        server_id: IP address of the server.
        device_ids: numbers of its devices.
        device_ips: addresses of the devices' own network ports, one each.
    """
    devices = [
        {"device_id": str(device), "device_ip": ip, "rank_id": str(rank)}
        for rank, (device, ip) in enumerate(zip(device_ids, device_ips))
    ]
    table = {
        "version": "1.0",
        "status": "completed",
        "server_count": "1",
        "server_list": [{"server_id": server_id, "device": devices}],
    }
    check(table, len(device_ids))
    return table


def check_file(path: str, rank_size: int):
    """Checks a rank table's file; see `check`."""
    try:
        with open(path) as f:
            table = json.load(f)
    except (OSError, ValueError) as error:
        raise UserError(f"The rank table {path} cannot be read as JSON: {error}.") from error
    check(table, rank_size, path)


def check(table: Dict[str, Any], rank_size: int, name: str = ""):
    """Checks that a rank table is whole and has a number of devices.

    Raises:
        UserError: says what was expected and what was found.
    """
    where = f"The rank table {name}".rstrip()

    def fail(what):
        raise UserError(f"{where}: {what} scripts/rank_table.py makes a right one.")

    if not isinstance(table, dict):
        fail("expected a JSON object.")
    if table.get("version") != "1.0" or table.get("status") != "completed":
        fail(
            'expected "version": "1.0" and "status": "completed", found '
            f"{table.get('version')!r} and {table.get('status')!r}."
        )
    servers = table.get("server_list")
    if not isinstance(servers, list) or not servers:
        fail('expected "server_list" to be a list of servers.')
    if str(table.get("server_count")) != str(len(servers)):
        fail(f'"server_count" is {table.get("server_count")!r}, the list has {len(servers)}.')
    ranks = [rank for server in servers for rank in _ranks_of_server(server, fail)]
    if ranks != list(range(len(ranks))):
        fail(f"expected the ranks to be 0 to {len(ranks) - 1} in order, found {ranks}.")
    if len(ranks) != rank_size:
        fail(f"it lists {len(ranks)} devices, RANK_SIZE is {rank_size}.")


def _ranks_of_server(server, fail) -> Sequence[int]:
    """The ranks of one server's devices, once they are checked."""
    if not isinstance(server, dict) or not server.get("server_id"):
        fail('expected every server to have a "server_id".')
    devices = server.get("device")
    if not isinstance(devices, list) or len(devices) not in DEVICES_PER_SERVER:
        found = f"{len(devices)} devices" if isinstance(devices, list) else "no list"
        fail(f"expected 1, 2, 4 or 8 devices on server {server['server_id']}, found {found}.")
    ids = []
    for device in devices:
        if not isinstance(device, dict):
            fail(f"expected a device to be a JSON object, found {device!r}.")
        for key in ("device_id", "rank_id"):
            if not str(device.get(key)).isdigit():
                fail(f"expected {key} to be a number as a string, found {device.get(key)!r}.")
        try:
            ipaddress.ip_address(device.get("device_ip"))
        except ValueError:
            fail(
                f"expected the device_ip of device {device['device_id']} to be an address, found "
                f"{device.get('device_ip')!r}."
            )
        ids.append(device["device_id"])
    if len(set(ids)) != len(ids):
        fail(f"a device is listed twice on server {server['server_id']}: {', '.join(ids)}.")
    return [int(device["rank_id"]) for device in devices]
