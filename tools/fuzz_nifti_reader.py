"""Fuzz the reader of NIfTI scans and labels: headers, compressed streams, cut and lengthened files.

    python tools/fuzz_nifti_reader.py [--inputs 40000] [--seed 0]

Every input is a sound file with random damage: header bytes replaced, header numbers set to extreme ones, one bit of
the compressed stream flipped, the file cut or lengthened. A header that is read goes on to its warnings, to the
network's axes and back into a file. Whatever happens must be an InputError or a clean read. A compressed stream with
another bit must be refused, unless the voxels are the same: only then did the damage lie where nothing depends on it.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import logging
import random
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import scan_warnings
from mednext_jax.io.nifti import from_volume, image_like, read_labels, read_scan, to_volume, write_image

SHAPE = (9, 8, 7)
VOXELS = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.int16)
FLOATS = (0.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("nan"), 0.9999999, 1.0000001, 351.99997)
INTEGERS = (0, 1, -1, 7, 8, 32767, -32768, 2, 4, 16, 512, 1024, 2048)


def seeds() -> list[bytes]:
    """Sound files: NIfTI-1 and NIfTI-2, both byte orders, by sform and by qform alone."""
    found = []
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.2, -0.3) * (0.7, 0.8, 1.2)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        for order in "<>":
            for sform in (1, 0):
                image = kind(VOXELS, affine, kind.header_class(endianness=order))
                image.set_sform(affine if sform else None, sform)
                image.set_qform(affine, 1)
                found.append(image.to_bytes())
    return found


def damaged_header(rng: random.Random, data: bytearray) -> None:
    size = 540 if data[:4] in (struct.pack("<i", 540), struct.pack(">i", 540)) else 348
    order = "<" if data[:4] in (struct.pack("<i", 540), struct.pack("<i", 348)) else ">"
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(4, size)
        wound = rng.randrange(4)
        if wound == 0:
            data[at] = rng.randrange(256)
        elif wound == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif wound == 2:
            struct.pack_into(order + "f", data, min(at // 4 * 4, size - 4), rng.choice(FLOATS))
        else:
            struct.pack_into(order + "h", data, min(at // 2 * 2, size - 2), rng.choice(INTEGERS))


def flipped(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def lengthened(rng: random.Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 100, 5000)))


def outcome(work: Callable[[], object]) -> str:
    try:
        work()
        return "read"
    except InputError as error:
        return error.problems[0].what


def through(path: Path, out: Path) -> None:
    """All that is done with a scan: its warnings, the network's axes, a mask on its grid, which nibabel reads."""
    image = read_scan(path)
    scan_warnings(image, path)
    volume, _, grid = to_volume(image)
    write_image(out, image_like(from_volume(volume[..., 0], grid) > 1, grid, np.uint8))
    np.testing.assert_array_equal(nib.load(out).affine, image.affine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)  # it tells what it corrects in a header
    rng, corpus, started = random.Random(options.seed), seeds(), time.perf_counter()
    ends: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        plain, packed, out = (Path(folder) / name for name in ("a.nii", "a.nii.gz", "out.nii"))
        for _ in range(options.inputs):
            data = bytearray(rng.choice(corpus))
            way = rng.choice(("header", "header", "flipped bit", "cut gzip", "longer gzip"))
            if way == "header":
                damaged_header(rng, data)
                plain.write_bytes(data)
                ends[way][outcome(lambda: through(plain, out))] += 1
                ends["header, as labels"][outcome(lambda: read_labels(plain))] += 1
                continue
            damage = {"flipped bit": flipped, "cut gzip": cut, "longer gzip": lengthened}[way]
            packed.write_bytes(damage(rng, gzip.compress(data, 1)))
            end = outcome(lambda: np.testing.assert_array_equal(np.asarray(read_scan(packed).dataobj), VOXELS))
            ends[way][end] += 1
    for way, counts in ends.items():
        print(f"{way}: {counts.total()}")
        for end, count in counts.most_common():
            print(f"{count:8d}  {end}")
    print(f"{time.perf_counter() - started:.0f} s, no crash, no other voxels")


if __name__ == "__main__":
    main()
