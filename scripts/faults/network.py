"""Hosts with addresses of their own on this machine: network namespaces, joined by a switch.

The switch is this process: each host's network card is a TAP device, whose frames it reads and
passes on. So each host's cable can be cut, slow, or lossy, whatever queues the kernel has.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from typing import List, NamedTuple, Optional

_TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_FRAME_BYTES = 2048
_QUEUED_SECONDS = 1.0  # Of frames at a slow cable; what comes then is dropped, as by a router.


class Cable(NamedTuple):
    """How a host's cable is: both ways."""

    cut: bool = False
    delay: float = 0.0  # Seconds, for each way.
    loss: float = 0.0  # Fraction of the frames.
    bits_per_second: float = float("inf")


def missing() -> Optional[str]:
    """Why there can be no such hosts here; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"amoeba{os.getpid()}"
    try:
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=True, capture_output=True)
        os.close(_open_tap(f"an{os.getpid()}"))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error).encode()
        return f"no network namespaces here: {reason.decode().strip()}"
    return None


def _open_tap(name: str) -> int:
    """A TAP device in this process's namespace, which is there as long as its file is open."""
    file = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError:
        os.close(file)
        raise
    return file


class Network:
    """Hosts and their switch, while the context is open.

    Args:
        size: number of hosts.
        seed: of the frames that get lost.

    Attributes:
        names: of the hosts' namespaces.
        cables: of the hosts, each of which may be replaced at any time.
    """

    def __init__(self, size: int, seed: int = 0):
        self.names = [f"amoeba{os.getpid()}h{i}" for i in range(size)]
        self.cables = [Cable() for _ in range(size)]
        self._random = random.Random(seed)
        self._open = contextlib.ExitStack()
        self._files: List[int] = []
        self._hosts = {}  # Of each hardware address that has sent something.
        self._free = [0.0] * (2 * size)  # When each way of each cable has sent what it has.
        self._waiting, self._order = [], itertools.count()
        self._ended = threading.Event()

    def address(self, host: int) -> str:
        return f"10.199.0.{host + 1}"

    def command(self, host: int) -> List[str]:
        """What to put before a command that runs on a host."""
        return ["ip", "netns", "exec", self.names[host]]

    def processes(self, host: int) -> List[int]:
        """Numbers of the processes that run on a host."""
        ids = subprocess.run(
            ["ip", "netns", "pids", self.names[host]], check=True, stdout=subprocess.PIPE
        )
        return [int(number) for number in ids.stdout.split()]

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            for host, name in enumerate(self.names):
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
                device = f"an{os.getpid()}x{host}"
                self._files.append(_open_tap(device))
                stack.callback(os.close, self._files[-1])
                _ip("link", "set", device, "netns", name)
                _ip("-n", name, "link", "set", device, "name", "eth0")
                _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
                for link in ("eth0", "lo"):
                    _ip("-n", name, "link", "set", link, "up")
            thread = threading.Thread(target=self._switch, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._ended.set)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._open.close()

    def _switch(self):
        while not self._ended.is_set():
            wait = 0.1
            if self._waiting:
                wait = min(wait, max(0.0, self._waiting[0][0] - time.monotonic()))
            for file in select.select(self._files, [], [], wait)[0]:
                self._receive(self._files.index(file))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, host, frame = heapq.heappop(self._waiting)
                with contextlib.suppress(OSError):  # The host's queue is full.
                    os.write(self._files[host], frame)

    def _receive(self, host: int):
        try:
            frame = os.read(self._files[host], _FRAME_BYTES)
        except BlockingIOError:
            return
        self._hosts[frame[6:12]] = host
        to = self._hosts.get(frame[:6])
        for receiver in range(len(self._files)) if to is None else [to]:
            if receiver != host:
                self._pass_on(host, receiver, frame)

    def _pass_on(self, sender: int, receiver: int, frame: bytes):
        """Takes a frame through the sender's cable and the receiver's."""
        due = now = time.monotonic()
        for cable, way in (
            (self.cables[sender], 2 * sender),
            (self.cables[receiver], 2 * receiver + 1),
        ):
            if cable.cut or self._random.random() < cable.loss:
                return
            start = max(due, self._free[way])
            if start - now > _QUEUED_SECONDS + cable.delay:
                return
            self._free[way] = start + 8 * len(frame) / cable.bits_per_second
            due = self._free[way] + cable.delay
        heapq.heappush(self._waiting, (due, next(self._order), receiver, frame))


def _ip(*arguments: str):
    subprocess.run(["ip", *arguments], check=True)
