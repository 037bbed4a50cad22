"""Tars, as ImageNet is distributed in."""

import contextlib
import io
import random
import struct
import tarfile
from typing import List

from common.data import tars
from common.errors import UserError
from scripts.faults.fuzz_input import damaged
from scripts.faults.fuzzing.target import NUMBERS, Target


def tar(directory: str) -> Target:
    """Tars: what is taken has to be what Python's tarfile finds in them."""
    del directory

    def run(data):
        file = io.BytesIO(data)
        try:
            found = tars.files(file, "a.tar")
        except UserError:
            return
        with tarfile.open(fileobj=io.BytesIO(data)) as reference:
            members = [(m.name, m.offset_data, m.size) for m in reference if m.isfile()]
        assert found == sorted(members)
        for member in found:
            with contextlib.suppress(UserError):
                inner = tars.files(file, "inner", member)
                end = member.offset + member.size
                assert all(member.offset < m.offset <= m.offset + m.size <= end for m in inner)

    return Target(_tar_seeds, _mutate_tar, run)


def _tar_seeds() -> List[bytes]:
    seeds = []
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as writer:
            for i, data in enumerate([b"abc", b"", b"x" * 600, *seeds[:1]]):
                member = tarfile.TarInfo(f"folder/ILSVRC2012_val_0000000{i}.JPEG")
                member.size, member.mtime = len(data), i + 0.5 if tar_format else i
                writer.addfile(member, io.BytesIO(data))
            member = tarfile.TarInfo("folder")
            member.type = tarfile.DIRTYPE
            writer.addfile(member)
        seeds.append(buffer.getvalue()[:8192])
    return seeds


def _mutate_tar(rng: random.Random, data: bytes) -> bytes:
    """Changes fields of headers, whose checksums are right; or moves blocks."""
    blocks = [data[i : i + 512] for i in range(0, len(data), 512)]
    headers = [i for i, block in enumerate(blocks) if block[257:262] == b"ustar"]
    kind = rng.randrange(6)
    if kind == 0 or not headers:
        return damaged(rng, data)
    i = rng.choice(headers)
    if kind == 1:
        blocks.insert(rng.choice(headers), blocks[i])
    elif kind == 2:
        del blocks[rng.randrange(len(blocks)) :]
    elif kind == 3:
        blocks[i] = _random_header(rng)
        blocks.insert(i + 1, damaged(rng, b"13 mtime=1.5\n9 size=5\n").ljust(512, b"\0")[:512])
    else:
        start, end = rng.choice(
            [(0, 100), (124, 136), (156, 157), (157, 257), (257, 265), (345, 500)]
        )
        value = rng.choice(
            [
                damaged(rng, blocks[i][start:end]),
                bytes([rng.choice(b"01234567gxLKSDMNVX\0\xff\x80")]) * (end - start),
                b"%o" % abs(rng.choice(NUMBERS)),
                b"\x80"
                + struct.pack(">Q", rng.choice(NUMBERS) % 2**64).rjust(end - start - 1, b"\0"),
                b"\xff"
                + struct.pack(">q", -rng.randrange(1 << 40)).rjust(end - start - 1, b"\xff"),
            ]
        )
        field = value[: end - start].ljust(end - start, b"\0")
        blocks[i] = _with_checksum(blocks[i][:start] + field + blocks[i][end:])
    return b"".join(blocks)


def _random_header(rng: random.Random) -> bytes:
    member = tarfile.TarInfo(rng.choice(["../x", "/x", "x" * 99, "x/", ""]))
    member.type = bytes([rng.choice(b"0123456gxLKS")])
    member.size = rng.choice([0, 512, 13, 22, 1 << 30])
    return member.tobuf(tarfile.USTAR_FORMAT)[:512]


def _with_checksum(header: bytes) -> bytes:
    header = header.ljust(512, b"\0")
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % (sum(blank) % 8**6) + blank[156:]
