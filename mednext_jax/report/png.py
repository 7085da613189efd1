"""Grey pictures as PNG, written with zlib: a page has dozens of small ones, and the package needs no image library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def grey_png(rows: np.ndarray) -> bytes:
    """The PNG file of uint8 pixels (height, width); ISO/IEC 15948, 8-bit greyscale, no filter."""
    height, width = rows.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter, 0
    lines[:, 1:] = rows
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(lines.tobytes(), 6)
    return SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def data_address(png: bytes) -> str:
    """The data: address that holds a PNG file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
