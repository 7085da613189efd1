"""Label maps of whole heads as the generator's anatomies: tissues, places for structures, directions of vessels."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from mednext_jax.errors import InputError, shown
from mednext_jax.io.absent import refuse_no_folder
from mednext_jax.io.nifti import grid_of, label_volume, read_labels
from mednext_jax.io.nifti_names import files_in, is_scan_name, stem
from mednext_jax.simulate import tissues
from mednext_jax.simulate.template import template_labels

# What a place is for; the first four hold perivascular spaces.
IN_WHITE_MATTER, IN_BASAL_GANGLIA, IN_HIPPOCAMPUS, IN_MIDBRAIN, IN_CORTEX, IN_TISSUE, IN_HEAD = range(7)
REGIONS = ("white matter", "basal ganglia", "hippocampus", "midbrain")
PLACES = 2048  # kept per anatomy and kind
EDGE_UNITS = 4.0  # `from_edge` counts quarters of a mm
_MARGIN_MM = 16  # of head around the brain
_COARSE = 2  # distances are computed on every second voxel
_LARGEST_MM, _SMALLEST_MM = 1.5, 0.4
_UNKNOWN_SHARE = 0.02
_SMALLEST_WHITE_MM3 = 50_000
_MIDBRAIN_MM = 20  # of brainstem below the thalamus


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """One head at 1 mm, axes (d, h, w) of a RAS volume.

    tissue: uint8, index into TISSUES. from_edge: int8, quarters of a mm from the edge of the closed brain, > 0 inside,
    which an imperfect brain mask follows. places: (7, PLACES, 3) voxels. directions: (4, PLACES, 3) unit, along the
    vessels there. brain_only: whether the map has nothing outside of the brain (an extracted one).
    """

    name: str
    tissue: np.ndarray
    from_edge: np.ndarray
    places: np.ndarray
    directions: np.ndarray
    brain_only: bool
    sha256: str


def template_anatomy() -> Anatomy:
    """The packaged template's brain, which has nothing around it; raises as `load_template`."""
    return anatomy_of("icbm-2009a", np.ascontiguousarray(template_labels().transpose(2, 1, 0)))


def read_anatomies(folder: str | Path) -> list[Anatomy]:
    """The label maps of `folder`, each a head or a brain with FreeSurfer's, SynthSeg's or FastSurfer's numbers.

    Raises one InputError that names every file that is none, or whose brain could not be simulated in.
    """
    where = Path(folder)
    refuse_no_folder(where, "There is no such folder of label maps.", expected="a folder")
    files = [path for path in files_in(where) if is_scan_name(path)]
    if not files:
        raise InputError(
            "The folder holds no label map.",
            file=where,
            expected="label maps with FreeSurfer's numbers, such as aseg.mgz, aparc+aseg.nii.gz or SynthSeg's output",
        )

    def read(path: Path) -> Anatomy | InputError:
        try:
            return read_anatomy(path)
        except InputError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(read, files))
    problems = [problem for one in found if isinstance(one, InputError) for problem in one.problems]
    if problems:
        raise InputError.of(problems)
    return [one for one in found if isinstance(one, Anatomy)]


def read_anatomy(path: Path) -> Anatomy:
    """One label map as an anatomy. Raises InputError as `read_anatomies` does."""
    image = read_labels(path)
    grid = grid_of(image)
    sizes = grid.spacing
    if max(sizes) > _LARGEST_MM or min(sizes) < _SMALLEST_MM:
        raise InputError(
            "The voxels of the label map are too large or too small to simulate in.",
            file=path,
            expected=f"{_SMALLEST_MM:g} to {_LARGEST_MM:g} mm",
            found=" x ".join(f"{size:.2f}" for size in sizes) + " mm",
            hint="segment a scan of about 1 mm",
        )
    values = label_volume(image, grid)
    if max(abs(size - 1) for size in sizes) > 0.02:
        shape = tuple(max(1, round(n * size)) for n, size in zip(values.shape, sizes, strict=True))
        values = ndimage.affine_transform(
            values, np.divide(1, sizes), output_shape=shape, order=0, offset=np.divide(1, sizes) / 2 - 0.5
        )
    return anatomy_of(stem(path), values, path)


def anatomy_of(name: str, values: np.ndarray, file: Path | None = None) -> Anatomy:
    """The anatomy of a label map `values` (d, h, w) at 1 mm with FreeSurfer's numbers; raises as `read_anatomies`."""
    there = np.bincount(values.ravel())
    large = np.flatnonzero(there[tissues.LARGEST_NUMBER + 1 :]) + tissues.LARGEST_NUMBER + 1
    table = np.full(len(there), tissues.UNKNOWN, np.uint8)
    table[: tissues.LARGEST_NUMBER + 1] = tissues.TISSUE_OF_NUMBER[: len(there)]
    unknown = [int(n) for n in np.flatnonzero(there) if table[n] == tissues.UNKNOWN]
    share = sum(int(there[n]) for n in unknown) / max(int(there[1:].sum()), 1)
    if share > _UNKNOWN_SHARE or len(large):
        raise InputError(
            "The label map has numbers that mean no tissue.",
            file=file,
            expected="FreeSurfer's numbers (aseg, aparc+aseg, SynthSeg, FastSurfer)",
            found=f"{100 * share:.3g} % of its voxels with others, such as {', '.join(map(str, unknown[:5]))}",
            hint="segment the head with SynthSeg, FastSurfer or FreeSurfer, or give other numbers to these voxels",
        )
    table[table == tissues.UNKNOWN] = tissues.AIR
    tissue = table[values]
    white = int((tissue == tissues.WHITE_MATTER).sum())
    needed = ((tissues.CORTEX,), (tissues.VENTRICLE,), tissues.BASAL_GANGLIA)
    if white < _SMALLEST_WHITE_MM3 or not all(np.isin(tissue, some).any() for some in needed):
        raise InputError(
            "The label map has no whole brain to simulate in.",
            file=file,
            expected=f"white matter (2, 41) of at least {_SMALLEST_WHITE_MM3 / 1000:.0f} mL, cortex, ventricles and "
            "basal ganglia",
            found=f"{white / 1000:.1f} mL of white matter; numbers {_some(np.flatnonzero(there))}",
            hint="segment a scan of the whole brain with SynthSeg, FastSurfer or FreeSurfer",
        )
    tissue = _cropped(tissue)
    places, directions = _places(tissue, np.random.default_rng(0))
    return Anatomy(
        name=name,
        tissue=tissue,
        from_edge=_from_edge(tissue),
        places=places,
        directions=directions,
        brain_only=not bool((tissue > max(tissues.IN_BRAIN)).any()),
        sha256=hashlib.sha256(tissue.tobytes()).hexdigest(),
    )


def stacked(anatomies: Sequence[Anatomy]) -> dict[str, np.ndarray]:
    """The arrays of several anatomies for the device, padded with air to one shape.

    tissue (a, d, h, w) uint8, from_edge (a, d, h, w) int8, places (a, 7, k, 3) and directions (a, 4, k, 3) float32,
    shares (a, 2, tissues): how much of the head's box and of the brain each tissue is; heads (a,): whether a map has
    tissue outside of the brain.
    """
    shape = np.max([anatomy.tissue.shape for anatomy in anatomies], axis=0)

    def padded(array: np.ndarray, value: int) -> tuple[np.ndarray, np.ndarray]:
        before = (shape - array.shape) // 2
        after = shape - array.shape - before
        return np.pad(array, np.stack([before, after], 1), constant_values=value), before

    tissue, edge, places, shares = [], [], [], []
    for anatomy in anatomies:
        whole, before = padded(anatomy.tissue, tissues.AIR)
        tissue.append(whole)
        edge.append(padded(anatomy.from_edge, -127)[0])
        places.append(anatomy.places + before)
        inside = anatomy.tissue[anatomy.from_edge > 0]
        rows = [np.bincount(voxels.ravel(), minlength=len(tissues.TISSUES)) for voxels in (anatomy.tissue, inside)]
        shares.append([row / row.sum() for row in rows])
    return {
        "tissue": np.stack(tissue),
        "from_edge": np.stack(edge),
        "places": np.stack(places).astype(np.float32),
        "directions": np.stack([anatomy.directions for anatomy in anatomies]).astype(np.float32),
        "shares": np.array(shares, np.float32),
        "heads": np.array([not anatomy.brain_only for anatomy in anatomies]),
    }


def _some(numbers: np.ndarray) -> str:
    text = ", ".join(map(str, numbers[:8]))
    return shown(text + (", ..." if len(numbers) > 8 else ""))


def _cropped(tissue: np.ndarray) -> np.ndarray:
    brain = tissues.in_brain(tissue) & (tissue != tissues.FLUID)
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    pads = [
        (max(_MARGIN_MM - s.start, 0), max(s.stop + _MARGIN_MM - n, 0)) for s, n in zip(box, tissue.shape, strict=True)
    ]
    whole = np.pad(tissue, pads)
    return np.ascontiguousarray(
        whole[
            tuple(
                slice(s.start + before - _MARGIN_MM, s.stop + before + _MARGIN_MM)
                for s, (before, _) in zip(box, pads, strict=True)
            )
        ]
    )


def _from_edge(tissue: np.ndarray) -> np.ndarray:
    """Quarters of a mm to the edge of the brain with its sulci closed, positive inside."""
    coarse = tissue[::_COARSE, ::_COARSE, ::_COARSE]
    brain = tissues.in_brain(coarse) & (coarse != tissues.FLUID) & (coarse != tissues.VESSEL)
    closed = ndimage.distance_transform_edt(~np.pad(brain, 8)) < 4  # 8 mm: closes the sulci and the ventricles
    closed = (ndimage.distance_transform_edt(closed) > 4)[8:-8, 8:-8, 8:-8] | brain
    closed = ndimage.binary_fill_holes(closed)
    signed = ndimage.distance_transform_edt(closed) - ndimage.distance_transform_edt(~closed)
    mm = _COARSE * (signed - np.sign(signed) / 2)
    fine = ndimage.zoom(mm.astype(np.float32), _COARSE, order=1, grid_mode=True, mode="nearest")
    whole = np.full(tissue.shape, -127.0, np.float32)
    part = tuple(slice(n) for n in np.minimum(whole.shape, fine.shape))
    whole[part] = fine[part]
    return np.clip(np.rint(EDGE_UNITS * whole), -127, 127).astype(np.int8)


def _places(tissue: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    white, basal = tissue == tissues.WHITE_MATTER, np.isin(tissue, tissues.BASAL_GANGLIA)
    hippocampus, cortex = tissue == tissues.HIPPOCAMPUS, tissue == tissues.CORTEX
    solid = tissues.in_brain(tissue) & (tissue != tissues.FLUID) & (tissue != tissues.VENTRICLE)
    deep = ndimage.binary_erosion(white | basal)
    # The brainstem's upper end, below the thalamus.
    stem = tissue == tissues.BRAINSTEM
    floor = np.argwhere(basal)[:, 0].min() - _MIDBRAIN_MM
    stem[: max(floor, 0)] = False
    places = np.stack(
        [
            _sample(rng, mask, where)
            for mask, where in (
                (white & deep, white),
                (basal & deep, white),
                (ndimage.binary_erosion(hippocampus), white),
                (ndimage.binary_erosion(stem), white),
                (cortex, cortex),
                (solid, solid),
                (tissue > 0, solid),
            )
        ]
    )
    radial = _radial(tissue)
    middle = np.argwhere(white[::4, ::4, ::4]).mean(0) * 4
    directions = np.stack(
        [
            _unit(radial(places[IN_WHITE_MATTER])),
            _unit(places[IN_BASAL_GANGLIA] - _entry(tissue, places[IN_BASAL_GANGLIA], middle)),
            np.tile(np.array([0.0, 1.0, 0.0]), (PLACES, 1)),  # along the hippocampus, front to back
            np.tile(np.array([1.0, 0.0, 0.0]), (PLACES, 1)),  # perforators of the midbrain, upwards
        ]
    )
    return places, directions


def _sample(rng: np.random.Generator, mask: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """PLACES voxels (k, 3) of a mask, or where it is empty of another."""
    flat = np.flatnonzero(mask)
    flat = np.flatnonzero(otherwise) if not len(flat) else flat
    return np.stack(np.unravel_index(rng.choice(flat, PLACES), mask.shape), 1)


def _radial(tissue: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(k, 3) voxels -> the direction from the ventricles to the cortex there."""
    coarse = tissue[::_COARSE, ::_COARSE, ::_COARSE]
    inner = ndimage.distance_transform_edt(coarse != tissues.VENTRICLE)
    outer = ndimage.distance_transform_edt(coarse != tissues.CORTEX)
    way = ndimage.gaussian_filter(inner / (inner + outer + 1e-3), 1.5)
    slopes = np.stack(np.gradient(way), -1).astype(np.float32)

    def at(voxels: np.ndarray) -> np.ndarray:
        return slopes[tuple(np.minimum(voxels // _COARSE, np.array(coarse.shape) - 1).T)]

    return at


def _entry(tissue: np.ndarray, voxels: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Where the lenticulostriate arteries of the side of each voxel enter: below and in front of the putamen."""
    lentiform = np.argwhere(np.isin(tissue, tissues.BASAL_GANGLIA[2:]))
    if not len(lentiform):
        lentiform = np.argwhere(np.isin(tissue, tissues.BASAL_GANGLIA))
    low, front = lentiform[:, 0].min() - 4, lentiform[:, 1].mean() + 8
    side = np.where(voxels[:, 2] < middle[2], -1, 1)
    return np.stack([np.full(len(voxels), low), np.full(len(voxels), front), middle[2] + 18 * side], 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
