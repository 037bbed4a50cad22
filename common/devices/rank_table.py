"""Ranks: which of the processes of a training has which device.

A rank table is a JSON file:

    {"version": "1.0", "status": "completed", "server_count": "1",
     "server_list": [{"server_id": "127.0.0.1", "device": [
       {"device_id": "0", "device_ip": "192.168.100.101", "rank_id": "0"}, ...]}]}

Ranks count from 0 over all servers, in the order of the list.
"""

import ipaddress
import os
import re
from typing import Any, Dict, Optional, Sequence, Tuple

from common import limits
from common.errors import UserError

DEVICES_PER_SERVER = (1, 2, 4, 8)
_NUMBER = re.compile("[0-9]{1,9}")
_MASTER_VARIABLES = (
    "CM_CHIEF_IP",
    "CM_CHIEF_PORT",
    "CM_CHIEF_DEVICE",
    "CM_WORKER_SIZE",
    "CM_WORKER_IP",
)


def from_environment() -> Tuple[int, Optional[int]]:
    """(number of devices, rank or None where the adapter alone knows it), from the environment.

    Raises:
        UserError: variables are missing, illegal, or do not go together; or a bad rank table.
    """
    if os.environ.get("CM_CHIEF_IP") and os.environ.get("RANK_TABLE_FILE"):
        raise UserError(  # ge_plugin.cc: it logs this, and connects the devices by neither.
            "CM_CHIEF_IP and RANK_TABLE_FILE are both set, and the adapter takes neither then: "
            "unset one of them."
        )
    if "CM_WORKER_SIZE" in os.environ:
        return _master_worker_size(), None
    size = _integer("RANK_SIZE", 1, 1 << 20, default=1)
    rank = _integer("RANK_ID", 0, size - 1, default=0 if size == 1 else None)
    table = os.environ.get("RANK_TABLE_FILE")
    if table:
        check_file(table, size)
    elif size > 1:
        raise UserError(
            f"RANK_SIZE={size} needs RANK_TABLE_FILE, the file that lists the devices: "
            "scripts/make_rank_table.py makes one."
        )
    return size, rank


def _master_worker_size() -> int:
    """Number of devices where a chief collects them and there is no rank table."""
    if "RANK_SIZE" in os.environ:
        raise UserError(
            "RANK_SIZE and CM_WORKER_SIZE are both set: use RANK_SIZE with a rank table, or the "
            "CM_ variables without RANK_SIZE."
        )
    missing = [name for name in _MASTER_VARIABLES if not os.environ.get(name)]
    if missing:
        raise UserError(f"CM_WORKER_SIZE is set, but {', '.join(missing)} missing: set them too.")
    return _integer("CM_WORKER_SIZE", 1, 1 << 20)


def _integer(name: str, low: int, high: int, default: Optional[int] = None) -> int:
    """An environment variable as a number."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        found = "is not set" if text is None else f"is {text!r}"
        raise UserError(f"{name} {found} in the environment: expected {low} to {high}.")
    return int(text)


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
        table = limits.read_json(path)
    except OSError as error:
        raise UserError(f"The rank table {path} cannot be read: {error}") from error
    except UserError as error:
        raise UserError(f"The rank table cannot be read: {error}") from error
    check(table, rank_size, path)


def check(table: Dict[str, Any], rank_size: int, name: str = ""):
    """Checks that a rank table is whole and has a number of devices.

    Raises:
        UserError: says what was expected and what was found.
    """
    where = f"The rank table {name}".rstrip()

    def fail(what):
        raise UserError(f"{where}: {what} scripts/make_rank_table.py makes a right one.")

    if not isinstance(table, dict):
        fail("expected a JSON object.")
    if "group_list" in table:
        fail('it has the older format, "group_list"; expected "server_list".')
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
            value = device.get(key)
            if not isinstance(value, str) or not _NUMBER.fullmatch(value):
                fail(f"expected {key} to be a number as a string, found {value!r:.100}.")
        ip = device.get("device_ip")
        try:
            ipaddress.ip_address(str(ip))
        except ValueError:
            fail(
                f"expected the device_ip of device {device['device_id']} to be an address, found "
                f"{ip!r:.100}."
            )
        ids.append(device["device_id"])
    if len(set(ids)) != len(ids):
        fail(f"a device is listed twice on server {server['server_id']}: {', '.join(ids)}.")
    return [int(device["rank_id"]) for device in devices]
