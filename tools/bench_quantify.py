"""Time and memory of `quantify`: one large scan with many PVS, and a cohort's tables made one.

    python -m tools.bench_quantify

A scan of 272 x 272 x 272 voxels (20 million) with 1,000 drawn tubes and a map of FreeSurfer's numbers on the same grid
is measured in memory and from files to files; then 1,000 tables of regions are read and merged. Prints wall time, the
process's own CPU time, and the highest memory of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.io.nifti import write_image
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.quantify.one_scan import quantify_arrays
from mednext_jax.quantify.quantify import quantify
from mednext_jax.quantify.tables import cohort_text, read_rows, regions_text
from mednext_jax.simulate.deform import VoxelGrid
from mednext_jax.simulate.tubes import Tube, partial_volume

SIDE, VOXEL_MM = 272, 0.8
BRAIN = 0.45  # squared radius, the scan being 2 wide: 1.7 L


def draw_mask(tubes: int) -> np.ndarray:
    """Tubes of 3 to 8 mm length and 1.2 to 2.4 mm width, apart from each other, in the brain of `draw_brain`."""
    random = np.random.default_rng(0)
    mask = np.zeros((SIDE,) * 3, bool)
    grid = VoxelGrid(mask.shape, np.full(3, VOXEL_MM), np.zeros(3))
    places = np.stack(np.meshgrid(*(np.arange(14, SIDE - 14, 13),) * 3, indexing="ij"), -1).reshape(-1, 3)
    places = places[((places / (SIDE / 2) - 1) ** 2).sum(1) < BRAIN]
    for place in random.permutation(places)[:tubes] * VOXEL_MM:
        direction = random.normal(size=3)
        direction /= np.linalg.norm(direction)
        across = np.cross(direction, random.normal(size=3))
        length, width = random.uniform(3, 8), random.uniform(1.2, 2.4)
        start = place - direction * length / 2
        tube = Tube(start, direction, across / np.linalg.norm(across), length, width, width, random.uniform(0.01, 1.2))
        voxels, share = partial_volume(tube, grid)
        mask[tuple(voxels[share >= 0.5].T)] = True
    return mask


def draw_brain() -> np.ndarray:
    """FreeSurfer's numbers in nested ellipsoids: cortex, white matter, nuclei, ventricles, on both sides."""
    places = [np.linspace(-1, 1, SIDE).reshape(-1, *(1,) * (2 - axis)) for axis in range(3)]
    away = sum(place**2 for place in places)
    values = np.zeros((SIDE,) * 3, np.int16)
    for limit, left, right in ((BRAIN, 3, 42), (0.25, 2, 41), (0.03, 12, 51), (0.02, 10, 49), (0.01, 4, 43)):
        values[away < limit] = left
        half = slice(SIDE // 2, None)
        values[half][away[half] < limit] = right
    return values


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}: {wall:.1f} s, of that {cpu:.1f} s of one CPU; {memory:.2f} GiB at most", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tubes", type=int, default=1000)
    parser.add_argument("--tables", type=int, default=1000)
    options = parser.parse_args()
    mask, values = draw_mask(options.tubes), draw_brain()
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = -SIDE * VOXEL_MM / 2
    probability = np.where(mask, np.float32(0.9), np.float32(0.01))
    print(f"{mask.size / 1e6:.1f} million voxels, {mask.sum()} of PVS")
    with timed("measured in memory, without a map"):
        found = quantify_arrays(mask, affine, probability)
    with timed(f"measured in memory, with a map ({len(found.clusters)} clusters)"):
        found = quantify_arrays(mask, affine, probability, Parcellation.of(values, affine, FREESURFER).refined())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, array in (("a_mask", mask.astype(np.uint8)), ("a_probability", probability), ("map", values)):
            write_image(folder / f"{file}.nii.gz", nib.Nifti1Image(array, affine))
        (folder / "masks").mkdir()
        for file in ("a_mask", "a_probability"):
            (folder / f"{file}.nii.gz").rename(folder / "masks" / f"{file}.nii.gz")
        with timed("from files to files, with a map"):
            quantify(folder / "masks", None, folder / "map.nii.gz", out=folder / "out")
        text = regions_text(found)
        paths = {f"scan{i:04d}": folder / f"scan{i:04d}_regions.tsv" for i in range(options.tables)}
        for path in paths.values():
            path.write_text(text)
        with timed(f"{options.tables} tables of {len(found.regions)} rows merged"):
            merged = cohort_text((case, read_rows(path)) for case, path in paths.items())
    print(f"{merged.count(chr(10)) - 1} rows, {len(merged) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
