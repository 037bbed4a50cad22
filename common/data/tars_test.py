"""Tars that are read in place: sound ones, damaged ones, and hostile ones."""

import io
import struct
import tarfile

import pytest

from common import limits
from common.data import tars
from common.errors import UserError


def _header(name="x.JPEG", size=0, kind=tarfile.REGTYPE, **fields):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for key, value in fields.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def _with_checksum(header):
    """A changed header whose checksum is right again."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def _with_size(size):
    """A header of a file whose size is the given 12 bytes."""
    header = _header()
    return _with_checksum(header[:124] + size + header[136:])


def _padded(data):
    return data + bytes(-len(data) % 512)


def _pax(*pairs):
    """An extended header with these keywords and values."""
    return _extended(b"".join(b"%d %b\n" % (len(pair) + 4, pair) for pair in pairs))


def _extended(records, size=None):
    """An extended header whose own header gives a size, by default that of these records."""
    return _header("PaxHeader", size or len(records), tarfile.XHDTYPE) + _padded(records)


_FILE = _header(size=3) + _padded(b"abc")
_END = bytes(1024)


def _files(data, **options):
    return tars.files(io.BytesIO(data), "a.tar", **options)


def test_what_tarfile_writes(tmp_path):
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("d/b.JPEG", b"b" * 700), ("d/a.JPEG", b"")):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5  # Its fraction needs an extended header.
            tar.addfile(member, io.BytesIO(data))
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    with open(path, "rb") as file:
        first, second = tars.files(file, path)
        file.seek(second.offset)
        assert file.read(second.size) == b"b" * 700
    assert (first.name, first.size, second.name) == ("d/a.JPEG", 0, "d/b.JPEG")


def test_tar_in_a_tar():
    inner = _FILE + _END
    outer = _header("inner.tar", len(inner)) + _padded(inner) + _END
    (member,) = _files(outer)
    assert _files(outer, inside=member) == [tars.Member("x.JPEG", 1024, 3)]


def test_every_name_is_only_a_name():
    names = ["../../x.JPEG", "/etc/passwd", "\udcff.JPEG"]
    assert [m.name for m in _files(b"".join(map(_header, names)) + _END)] == sorted(names)


HOSTILE = [
    (b"", r"a\.tar is incomplete"),
    (_FILE, "incomplete: it ends at byte 1024"),
    (_FILE[:514], r"incomplete: it ends within 'x\.JPEG'"),
    (_FILE + _header("y")[:300], "incomplete"),
    (b"\x1f\x8b" * 300, "not an uncompressed tar"),
    # tarfile takes the next ones for the end, and the images behind it are lost.
    (_FILE + b"\x01" * 512 + _FILE + _END, "damaged, at byte 1024"),
    (_FILE + _FILE[:100] + b"9" + _FILE[101:] + _END, "damaged, at byte 1024"),
    # tarfile goes round in circles: https://nvd.nist.gov/vuln/detail/CVE-2025-8194.
    (_with_size(b"\xff" * 10 + struct.pack(">h", -512)) + _END, "has -512 bytes"),
    (_with_size(b"\x80" + b"\x7f" * 11) + _END, "incomplete"),
    (_with_size(b"77777777777\0") + _END, "incomplete"),
    (_header(kind=tarfile.SYMTYPE, linkname="/etc/passwd") + _END, "holds a symbolic link"),
    (_header(kind=tarfile.LNKTYPE, linkname="../y") + _END, "holds a hard link"),
    (_header(kind=tarfile.CHRTYPE) + _END, "holds a device"),
    (_header(kind=tarfile.BLKTYPE) + _END, "holds a device"),
    (_header(kind=tarfile.FIFOTYPE) + _END, "holds a pipe"),
    (_header(kind=tarfile.GNUTYPE_SPARSE) + _END, "holds a sparse file"),
    (_header(kind=b"Z") + _END, "holds a member of type b'Z'"),
    (_header("y" * 200) + _END, "holds a name of more than 100 bytes"),
    (_FILE + _FILE + _END, r"holds 'x\.JPEG' twice"),
    (_pax(b"mtime=1.5") + _END, "incomplete: it ends within 'PaxHeader'"),
    (_pax(b"path=../y") + _FILE + _END, "extended header with path"),
    (_pax(b"mtime=1.5", b"size=10000000000") + _FILE + _END, "extended header with size"),
    (_pax(b"GNU.sparse.map=0,1") + _FILE + _END, r"extended header with GNU\.sparse\.map"),
    (_extended(b"11 mtime=1X9 size=5\n") + _FILE + _END, "an extended header that is none"),
    (_extended(b"0 mtime=15\n") + _FILE + _END, "an extended header that is none"),
    (_extended(b"99 mtime=15\n") + _FILE + _END, "an extended header that is none"),
    (_extended(b"12 mtime=15\n9 size=5\n", 12) + _FILE + _END, "goes on behind its end"),
    (_header("p", 2**21, tarfile.XHDTYPE) + bytes(2**21), "extended header of 2097152 bytes"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_hostile(data, message):
    with pytest.raises(UserError, match=message):
        _files(data)


def test_inner_tar_must_not_reach_beyond_its_member():
    inner = _header("x.JPEG", 4096) + bytes(512)
    outer = _header("inner.tar", len(inner)) + inner + bytes(8192)
    (member,) = _files(outer)
    with pytest.raises(UserError, match="incomplete"):
        _files(outer, inside=member)


def test_extended_headers_do_not_recurse():
    """Python's tarfile ends with a RecursionError."""
    assert len(_files(_pax(b"mtime=1.5") * 5000 + _FILE + _END)) == 1


def test_number_of_members(monkeypatch):
    monkeypatch.setattr(limits, "TAR_MEMBERS", 3)
    assert len(_files(b"".join(_header(str(i)) for i in range(3)) + _END)) == 3
    with pytest.raises(UserError, match="more than 3 members"):
        _files(b"".join(_header(str(i), kind=tarfile.DIRTYPE) for i in range(4)) + _END)
