"""Build torch zip files by hand, honest and dishonest ones, without torch."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from pathlib import Path

DATA = Path(__file__).parent.parent / "data/torch_files"


def archive(contents: bytes, storages: dict[str, bytes] | None = None, extra: dict[str, bytes] | None = None) -> bytes:
    """A zip archive as torch.save lays it out."""
    members = {"archive/data.pkl": contents, "archive/byteorder": b"little", "archive/version": b"3\n"}
    members |= {f"archive/data/{key}": data for key, data in (storages or {}).items()}
    return zipped([*members.items(), *(extra or {}).items()])


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of (name, bytes); names may repeat."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")  # about repeated names
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def tensor_pickle(
    size=(2, 3), stride=(3, 1), offset=0, count=6, storage="FloatStorage", key="0", name="weight"
) -> bytes:
    """The pickle of {name: tensor} with any numbers in it, true or not."""

    def integer(value: int) -> bytes:
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        raw = value.to_bytes(16, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def tuple_of(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(integer, values)) + b"t"

    identity = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu")
    identity += integer(count) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + integer(offset) + tuple_of(size)
    tensor += tuple_of(stride) + b"\x89" + hooks + b"tR"
    return b"\x80\x02}" + text(name) + tensor + b"s."


def payload(marker: Path, protocol: int) -> bytes:
    """A pickle that creates `marker` when Python's own pickle module loads it."""

    class Touch:
        def __reduce__(self):
            return Path.touch, (marker,)

    return pickle.dumps(Touch(), protocol)


def opcodes(data: bytes) -> set[str]:
    return {opcode.name for opcode, _, _ in pickletools.genops(data)}
