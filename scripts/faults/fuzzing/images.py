"""Image files of all formats."""

import contextlib
import io
import os
import random
import struct
import zlib
from typing import List

from PIL import Image, TiffTags

import prediction
from common import files
from common.data import image_files
from common.demo import uploads
from common.errors import UserError
from scripts.faults import fuzz_input
from scripts.faults.fuzz_input import damaged
from scripts.faults.fuzzing.target import NUMBERS, Target


def images(directory: str) -> Target:
    """Image files: as build_tfrecords.py converts them, and as the demo checks them."""
    del directory

    def run(data):
        with contextlib.suppress(ValueError):
            jpeg = image_files.to_jpeg(data)
            with Image.open(io.BytesIO(jpeg.encoded)) as image:
                assert image.size == (jpeg.width, jpeg.height)
        with contextlib.suppress(UserError):
            uploads.read(data).shown()

    return Target(image_seeds, mutate_image, run)


def predictions(directory: str) -> Target:
    """Image files: as --mode=predict --image_paths reads them."""
    path = os.path.join(directory, "image")
    read = prediction.ImageReader(16)

    def run(data):
        files.write_bytes(path, data)
        with contextlib.suppress(UserError):
            assert read(path).shape == (16, 16, 3)

    return Target(image_seeds, mutate_image, run)


def image_seeds() -> List[bytes]:
    picture = Image.open(io.BytesIO(fuzz_input.base_images()[0]))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    others = [picture.rotate(90 * i) for i in range(1, 4)]
    variants = [
        *[("TIFF", mode, {}) for mode in ("RGB", "RGBA", "L", "1", "I", "F", "CMYK", "P", "I;16")],
        *[
            ("TIFF", "RGB", {"compression": f"tiff_{c}"})
            for c in ("lzw", "deflate", "adobe_deflate")
        ],
        *[("TIFF", "RGB", {"compression": c}) for c in ("packbits", "jpeg")],
        ("TIFF", "RGB", {"save_all": True, "append_images": others, "exif": exif}),
        *[
            ("WEBP", mode, {"lossless": lossless})
            for mode in ("RGB", "RGBA")
            for lossless in (0, 1)
        ],
        ("WEBP", "RGB", {"save_all": True, "append_images": others, "exif": exif}),
        *[("PPM", mode, {}) for mode in ("RGB", "L", "1", "I")],
        ("JPEG", "RGB", {"exif": exif, "icc_profile": b"profile" * 9, "comment": b"text"}),
        ("MPO", "RGB", {"save_all": True, "append_images": others, "exif": exif}),
        ("PNG", "RGB", {"exif": exif, "icc_profile": b"profile" * 9, "dpi": (72, 72)}),
        ("PNG", "P", {"transparency": 0, "bits": 4}),
        ("PNG", "RGB", {"save_all": True, "append_images": others}),
        (
            "GIF",
            "P",
            {"save_all": True, "append_images": others, "comment": b"x", "transparency": 1},
        ),
    ]
    seeds = fuzz_input.base_images()
    for image_format, mode, options in variants:
        buffer = io.BytesIO()
        converted = picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
        converted.save(buffer, image_format, **options)
        seeds.append(buffer.getvalue())
    return [*seeds, b"P3 2 1 255 1 2 3 4 5 6 ", b"P2 2 1 65535 1 2 ", b"P1 2 1 1 0 "]


def mutate_image(rng: random.Random, data: bytes) -> bytes:
    if rng.randrange(4) == 0:
        return damaged(rng, data)
    mutate = _MUTATIONS_BY_START.get(data[:2], damaged)
    return mutate(rng, data)


def _mutate_png(rng: random.Random, data: bytes) -> bytes:
    """Changes, repeats, or moves chunks; their checksums are right."""
    chunks, offset = [], 8
    while offset + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        chunks.append((data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    if not chunks:
        return damaged(rng, data)
    i = rng.randrange(len(chunks))
    name, body = chunks[i]
    kind = rng.randrange(4)
    if kind == 0:
        chunks[i] = name, damaged(rng, body)
    elif kind == 1:
        with contextlib.suppress(zlib.error):
            body = zlib.compress(damaged(rng, zlib.decompress(body)))
        chunks[i] = name, body
    elif kind == 2:
        chunks.insert(rng.randrange(len(chunks)), chunks[i])
    else:
        name = rng.choice([b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL"])
        body = b"a\0\0" + zlib.compress(bytes(rng.choice([9, 1 << 16, 1 << 24])))
        chunks.insert(rng.randrange(len(chunks)), (name, body))
    return data[:8] + b"".join(
        struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
    )


def _mutate_jpeg(rng: random.Random, data: bytes) -> bytes:
    """Changes, repeats, or inserts segments; their lengths are right."""
    starts = [i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
    parts = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)])]
    if len(parts) < 2:
        return damaged(rng, data)
    i = rng.randrange(1, len(parts))
    kind = rng.randrange(4)
    if kind == 0:
        parts[i] = parts[i][:2] + damaged(rng, parts[i][2:])
    elif kind == 1:
        parts[i : i + 1] = [parts[i]] * rng.choice([0, 2, 20])
    elif kind == 2:
        parts[i] = parts[i][:4] + damaged(rng, parts[i][4:])
        parts[i] = parts[i][:2] + struct.pack(">H", (len(parts[i]) - 2) % 65536) + parts[i][4:]
    else:
        body = rng.choice([b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\2", b"Adobe\0", b"JFIF\0"])
        body += _tiff_directory(rng)
        marker = rng.choice([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
        parts.insert(1, struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
    return b"".join(parts)


def _mutate_tiff(rng: random.Random, data: bytes) -> bytes:
    """Changes entries of the first directory: of tags, types, counts and values."""
    order = ">" if data.startswith(b"MM") else "<"
    if len(data) < 8:
        return damaged(rng, data)
    data = bytearray(data)
    (directory,) = struct.unpack_from(order + "I", data, 4)
    if directory + 14 > len(data):
        return damaged(rng, bytes(data))
    (count,) = struct.unpack_from(order + "H", data, directory)
    offset = directory + 2 + 12 * rng.randrange(max(1, count))
    if offset + 16 > len(data):
        return damaged(rng, bytes(data))
    kind = rng.randrange(5)
    if kind == 0:
        tag = rng.choice([*TiffTags.TAGS_V2, 322, 323, 324, 325, 330, 34665])
        struct.pack_into(order + "H", data, offset, tag)
    elif kind == 1:
        struct.pack_into(order + "H", data, offset + 2, rng.randrange(20))
    elif kind in (2, 3):
        value = rng.choice([*NUMBERS[:8], directory, rng.randrange(300)]) % 2**32
        struct.pack_into(order + "I", data, offset + 4 * (kind - 1), value)
    elif directory + 6 + 12 * count <= len(data):  # The next directory: again the same one.
        struct.pack_into(order + "I", data, directory + 2 + 12 * count, directory)
    return bytes(data)


def _tiff_directory(rng: random.Random) -> bytes:
    """A directory of EXIF, which may contain itself."""
    entries = [
        struct.pack(
            "<HHII",
            rng.choice([0x0112, 0x8769, 0x8825, 0xA005, 0x014A, 0x011A, 0x0128, 0xB000, 0xB001]),
            rng.randrange(14),
            rng.choice(NUMBERS[:8]) % 2**32,
            rng.choice([8, 0, 1, 2**32 - 1, rng.randrange(200)]),
        )
        for _ in range(rng.randrange(1, 6))
    ]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + b"\x08\0\0\0"


_MUTATIONS_BY_START = {
    b"\x89P": _mutate_png,
    b"\xff\xd8": _mutate_jpeg,
    b"II": _mutate_tiff,
    b"MM": _mutate_tiff,
}
