"""Makes or checks the rank table of a training on several Ascend devices.

    python scripts/make_rank_table.py --devices=8 --output=rank_table_8p.json
    python scripts/make_rank_table.py --check=rank_table_8p.json --devices=8

The devices' addresses are taken from /etc/hccn.conf (lines like address_0=192.168.100.101), or from
--device_ips.
"""

import argparse
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from common import files
from common.arguments import output_file
from common.devices import rank_table
from common.errors import UserError


def main(argv=None):
    arguments = parse_arguments(argv)
    try:
        if arguments.check:
            rank_table.check_file(arguments.check, arguments.devices)
            print(f"{arguments.check} is a rank table of {arguments.devices} devices.")
            return
        files.write_text(arguments.output, json.dumps(make_table(arguments), indent=1) + "\n")
    except (UserError, OSError) as error:
        sys.exit(f"make_rank_table.py: {error}")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--devices",
        type=int,
        choices=rank_table.DEVICES_PER_SERVER,
        required=True,
        help="how many train together",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=output_file, help="file to write the table to")
    what.add_argument("--check", help="file to check instead of making one")
    parser.add_argument("--first_device", type=int, default=0, help="number of the first device")
    parser.add_argument("--server_id", default="127.0.0.1", help="address of the server")
    parser.add_argument("--device_ips", help="addresses of the devices, with commas between")
    parser.add_argument(
        "--hccn_conf", default="/etc/hccn.conf", help="where to find them otherwise"
    )
    return parser.parse_args(argv)


def make_table(arguments):
    first = arguments.first_device
    ids = list(range(first, first + arguments.devices))
    if arguments.device_ips:
        ips = arguments.device_ips.split(",")
        if len(ips) != len(ids):
            raise UserError(f"--device_ips has {len(ips)} addresses for {len(ids)} devices.")
    else:
        ips = read_addresses(arguments.hccn_conf, ids)
    return rank_table.make(arguments.server_id, ids, ips)


def read_addresses(path, device_ids):
    """Addresses of devices from the server's hccn.conf."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            found = dict(re.findall(r"^address_(\d+)=(\S+)", f.read(), re.MULTILINE))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give --device_ips.") from error
    missing = [str(i) for i in device_ids if str(i) not in found]
    if missing:
        raise UserError(f"{path} has no address of device {', '.join(missing)}: give --device_ips.")
    return [found[str(i)] for i in device_ids]


if __name__ == "__main__":
    main()
