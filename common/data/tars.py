"""The files in a tar, which is read where it is: nothing is extracted.

Only plain tars of files and directories are taken, as ImageNet's are. Their headers are walked here
because `tarfile` takes a damaged header for the end of the tar, reads extended headers of any size
into memory, and, in the releases of Python that are supported here, goes round in circles where a
size is negative.
"""

import itertools
import os
import re
import tarfile
from typing import BinaryIO, Iterator, List, NamedTuple, Optional

from common import limits
from common.errors import UserError

_BLOCK = tarfile.BLOCKSIZE
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "a name of more than 100 bytes",
}
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# Headers of times, owners and attributes, as far as they say nothing else.
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE)
_EXTENDED_BYTES = limits.MEBIBYTE
# Length, keyword and value.
_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")
_CHANGES_MEMBER = re.compile(rb"path|size|linkpath|GNU\.sparse\..*")


class Member(NamedTuple):
    """A file in a tar: `size` bytes from `offset` of the tar's own file."""

    name: str
    offset: int
    size: int


def files(file: BinaryIO, name: str, inside: Optional[Member] = None) -> List[Member]:
    """The files in a tar, sorted by name, once all of the tar has been found to be there.

    Args:
        file: to read the tar from.
        name: of the tar, for messages.
        inside: the member of `file` that is the tar; None for all of `file`.

    Raises:
        UserError: it is damaged or incomplete, has something else than files and directories, a
            name twice, or too many members.
    """
    start, end = 0, file.seek(0, os.SEEK_END)
    if inside:
        start, end = inside.offset, inside.offset + inside.size
    members = {}
    for member in _walk(file, name, start, end):
        if member.name in members:
            raise UserError(f"{name} holds {member.name!r} twice.")
        members[member.name] = member
    return [members[name] for name in sorted(members)]


def _walk(file: BinaryIO, name: str, start: int, end: int) -> Iterator[Member]:
    offset, header = start, None
    for count in itertools.count():
        previous, header = header, _read_header(file, name, start, offset, end)
        if header is None:
            if previous and previous.type in _EXTENDED:
                raise UserError(f"{name} is incomplete: it ends within {previous.name!r}.")
            return
        if count == limits.TAR_MEMBERS:
            raise UserError(f"{name} has more than {count} members.")
        data = offset + _BLOCK
        if header.size < 0:
            raise UserError(f"{name} is damaged: {header.name!r} has {header.size} bytes.")
        # Only files and extended headers have data, whatever their size says.
        has_data = header.type in _FILES or header.type in _EXTENDED
        offset = data + (_in_blocks(header.size) if has_data else 0)
        if has_data and data + header.size > end:
            raise UserError(f"{name} is incomplete: it ends within {header.name!r}.")
        if header.type in _FILES:
            yield Member(header.name, data, header.size)
        elif header.type in _EXTENDED:
            _check_extended(file, name, header, data)
        elif header.type != tarfile.DIRTYPE:
            kind = _KINDS.get(header.type, f"a member of type {header.type!r}")
            raise UserError(
                f"{name} holds {kind}, {header.name!r}: a tar of files alone is expected; make it "
                "anew with tar --format=ustar."
            )


def _read_header(file, name, start, offset, end) -> Optional[tarfile.TarInfo]:
    """The header at an offset; None where the tar ends in order, with a block of zeros."""
    file.seek(offset)
    block = file.read(max(0, min(_BLOCK, end - offset)))
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:
        return None
    except tarfile.HeaderError as error:
        if len(block) < _BLOCK:
            raise UserError(f"{name} is incomplete: it ends at byte {end - start}.") from error
        what = "damaged" if offset > start else "not an uncompressed tar, or damaged"
        raise UserError(f"{name} is {what}, at byte {offset - start}: {error}.") from error


def _in_blocks(size: int) -> int:
    """Bytes of the whole blocks that so many bytes take."""
    return -(-size // _BLOCK) * _BLOCK


def _check_extended(file, name, header, offset):
    if header.size > _EXTENDED_BYTES:
        raise UserError(f"{name} is damaged: it has an extended header of {header.size} bytes.")
    file.seek(offset)
    data = file.read(_in_blocks(header.size))
    start = 0
    while start < header.size:
        record = _RECORD.match(data, start)
        end = start + int(record.group(1)) if record else 0
        if not record or not record.end() < end <= header.size or data[end - 1 : end] != b"\n":
            raise UserError(f"{name} is damaged: it has an extended header that is none.")
        if _CHANGES_MEMBER.fullmatch(record.group(2)):
            raise UserError(
                f"{name} has an extended header with {record.group(2).decode('ascii', 'replace')}; "
                "make it anew with tar --format=ustar."
            )
        start = end
    # Some readers go on there.
    if any(data[start:]):
        raise UserError(
            f"{name} is damaged: it has an extended header that goes on behind its end."
        )
