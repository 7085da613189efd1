"""The members of an uncompressed zip archive as windows on its bytes, with nothing in it believed unchecked.

PyTorch stores every member uncompressed, so nothing here can unpack to more than the file itself.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

_END = b"PK\x05\x06"
_END64 = b"PK\x06\x06"
_CENTRAL = b"PK\x01\x02"
_LOCAL = b"PK\x03\x04"
_MEMBER_LIMIT = 20_000  # MedNeXt-L with its optimiser's state has about 1600


class BadZip(ValueError):
    """The archive is damaged or was made to deceive; the text says how."""


class Member(NamedTuple):
    """Where a member's bytes lie in the file."""

    start: int
    size: int
    crc: int

    def read(self, data: memoryview) -> memoryview:
        """The member's bytes (no copy), their checksum verified. Raises BadZip."""
        found = data[self.start : self.start + self.size]
        if zlib.crc32(found) != self.crc:
            raise BadZip("a member's checksum is wrong: the file is damaged")
        return found


def read_members(data: memoryview) -> dict[str, Member]:
    """Name -> member. Raises BadZip for compressed, encrypted, overlapping, repeated or ill-named members."""
    directory, size, count = _find_directory(data)
    if count > _MEMBER_LIMIT:
        raise BadZip(f"{count} members, more than {_MEMBER_LIMIT}")
    members: dict[str, Member] = {}
    position = directory
    for _ in range(count):
        if position + 46 > directory + size or data[position : position + 4] != _CENTRAL:
            raise BadZip("the list of members is cut or damaged")
        flags, method, crc, packed, full, names, extra, comment, local = struct.unpack_from(
            "<8xHH4xIIIHHH8xI", data, position
        )
        end = position + 46 + names + extra + comment
        if end > directory + size:
            raise BadZip("the list of members is cut or damaged")
        raw_name = bytes(data[position + 46 : position + 46 + names])
        full, packed, local = _zip64(data[position + 46 + names : position + 46 + names + extra], full, packed, local)
        name = _safe_name(raw_name)
        if name in members:
            raise BadZip(f"two members have the name {ascii(name)[:100]}")
        if flags & 1:
            raise BadZip(f"{ascii(name)[:100]} is encrypted")
        if method != 0 or packed != full:
            raise BadZip(f"{ascii(name)[:100]} is compressed or its sizes contradict each other")
        members[name] = Member(_data_start(data, local, raw_name, full, directory), full, crc)
        position = end
    if position != directory + size:
        raise BadZip("the list of members is longer than it says")
    spans = sorted((member.start, member.start + member.size) for member in members.values())
    if any(next_start < end for (_, end), (next_start, _) in zip(spans, spans[1:], strict=False)):
        raise BadZip("members overlap")
    return members


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Offset, size and number of entries of the central directory."""
    tail_start = max(0, len(data) - 22 - 65535)
    tail = bytes(data[tail_start:])
    found = tail.rfind(_END)
    if found < 0 or found + 22 > len(tail):
        raise BadZip("the end of the archive is missing: the file is truncated")
    end = tail_start + found
    disk, first_disk, here, count, size, offset, comment = struct.unpack_from("<4xHHHHIIH", data, end)
    if end + 22 + comment != len(data):
        raise BadZip("bytes follow the end of the archive")
    # PyTorch writes the 64-bit record in any case; it leads where a 32-bit field is full
    if 0xFFFF in (count, here) or 0xFFFFFFFF in (size, offset):
        if end < 20 or data[end - 20 : end - 16] != b"PK\x06\x07":
            raise BadZip("the 64-bit end of the archive is missing")
        (end64,) = struct.unpack_from("<8xQ", data, end - 20)
        if end64 + 56 > end - 20 or data[end64 : end64 + 4] != _END64:
            raise BadZip("the 64-bit end of the archive is missing")
        disk, first_disk, here, count, size, offset = struct.unpack_from("<16xIIQQQQ", data, end64)
        end = end64
    if disk or first_disk or here != count:
        raise BadZip("an archive of several parts")
    if offset + size > end:
        raise BadZip("the list of members lies outside the file")
    return offset, size, count


def _zip64(extra: memoryview, full: int, packed: int, local: int) -> tuple[int, int, int]:
    """The 64-bit values of the fields that are full, from the extra field with id 1."""
    wanted = [value == 0xFFFFFFFF for value in (full, packed, local)]
    if not any(wanted):
        return full, packed, local
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1 and length >= 8 * sum(wanted) and position + 4 + length <= len(extra):
            values = iter(struct.unpack_from(f"<{sum(wanted)}Q", extra, position + 4))
            full, packed, local = (
                next(values) if is_full else value for is_full, value in zip(wanted, (full, packed, local), strict=True)
            )
            return full, packed, local
        position += 4 + length
    raise BadZip("a 64-bit size is missing")


def _safe_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadZip(f"a member's name is not UTF-8: {ascii(raw)[:100]}") from None
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ":" in parts[0] or ".." in parts or "" in parts:
        raise BadZip(f"a member's name leads out of the archive: {ascii(name)[:100]}")
    return name


def _data_start(data: memoryview, local: int, raw_name: bytes, size: int, directory: int) -> int:
    if local + 30 > directory or data[local : local + 4] != _LOCAL:
        raise BadZip("a member's header lies outside the file")
    names, extra = struct.unpack_from("<26xHH", data, local)
    start = local + 30 + names + extra
    if data[local + 30 : local + 30 + names] != raw_name:
        raise BadZip("a member has two names")
    if start + size > directory:
        raise BadZip(f"{ascii(raw_name)[:100]} reaches outside the file")
    return start
