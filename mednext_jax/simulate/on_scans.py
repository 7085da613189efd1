"""A data set of perivascular spaces painted into a lab's own scans, in nnU-Net's raw format."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from tqdm import tqdm

from mednext_jax.errors import InputError, Problem, WorkError, in_groups, shown
from mednext_jax.io import bids
from mednext_jax.io.absent import is_named, refuse_no_folder
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.io.contrast import contrast_in
from mednext_jax.io.geometry import in_mm
from mednext_jax.io.nifti import image_like, read_scan, write_image
from mednext_jax.io.nifti_names import few, files_in, is_nifti_name, stem
from mednext_jax.measure import parcellation
from mednext_jax.measure.parcellation import Parcellation, select
from mednext_jax.quantify.region_source import ATLAS, RegionSource, open_regions
from mednext_jax.simulate.acquisition import PAINTED_CONTRASTS
from mednext_jax.simulate.dataset_files import make_folders, truth_rows, write_tables
from mednext_jax.simulate.painting import PAINTED_REGIONS, PaintedScan, paint_scan
from mednext_jax.simulate.placement import PvsDistribution

LARGEST_MM = 1.6  # of a region map's voxel: tubes keep 2 mm from the edge of their region


def simulate_on(
    out: str | os.PathLike,
    scans: str | os.PathLike | Mapping[str, Path],
    regions: str | os.PathLike,
    contrast: str | None = None,
    seed: int = 0,
    pvs: PvsDistribution | None = None,
    region_names: str | Path | None = None,
) -> Path:
    """Paint perivascular spaces into `scans`, and write them as an nnU-Net raw data set into the new folder `out`.

    The files are those of `simulate`, with regions 3 hippocampus and 4 brainstem, images float32 on the scans' grids,
    and positions in truth.tsv in the mm of the scans' affines. A scan's PVS depend on its name and `seed` alone. Its
    own PVS are not in the labels.
    scans: a file, a folder, a BIDS data set, or {case: file}. regions, region_names: as `quantify` takes them, but for
    the atlas. contrast: of PAINTED_CONTRASTS; by default as the files' names tell; other scans are left out.
    A scan that cannot be painted is left out, and what is wrong is raised when the others are written: WorkError; or
    InputError if there are no others, and nothing is written. Raises InputError if an argument is wrong or `out` holds
    something already.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError("The number seed is wrong.", expected="a whole number from 0", found=seed)
    if os.fspath(regions) == ATLAS:
        raise InputError(
            "The atlas does not tell cortex from white matter, and nothing can be painted by it.",
            expected="region maps of these scans",
            found=f"--regions {ATLAS}",
            hint="make them with SynthSeg, FastSurfer or FreeSurfer",
        )
    cases = dict(scans) if isinstance(scans, Mapping) else find_cases(scans)
    contrast, cases = _of_contrast(cases, contrast)
    with _hints_of_painting():
        source = open_regions(Path(regions), region_names, single=len(cases) == 1)
    assert source is not None  # `regions` is a path
    problems: list[Problem] = []
    participants: list[dict] = []
    truth: list[dict] = []
    with atomic_directory(out) as folder:
        make_folders(folder)
        for case, path in tqdm(cases.items(), desc="simulate", unit="scan", disable=None):
            try:
                scan = read_scan(path)
                brain, notes = regions_of(source, case, scan, path)
                painted = paint_scan(scan, brain, contrast, random_of(seed, case), pvs, file=path)
            except InputError as error:
                problems += error.problems
                continue
            for note in notes:
                tqdm.write(f"  {shown(note)}")
            _write_images(folder, case, scan, painted)
            rows = truth_rows(case, painted.placed, painted.strength, painted.voxels, PAINTED_REGIONS, painted.to_world)
            participants.append(_participant(case, painted))
            truth += rows
        if not participants:
            raise InputError.of(problems)
        write_tables(
            folder,
            participants,
            truth,
            PAINTED_REGIONS,
            f"painted PVS {contrast}",
            "Perivascular spaces painted by mednext-jax into real scans; the scans' own are not labelled.",
            contrast,
        )
    if problems:
        raise WorkError(in_groups(problems))
    return Path(out)


def random_of(seed: int, case: str) -> np.random.Generator:
    """The random numbers of one scan, whatever the others."""
    return np.random.default_rng([seed, zlib.crc32(case.encode("utf-8", "surrogateescape"))])


def find_cases(source: str | os.PathLike) -> dict[str, Path]:
    """Case -> file of the NIfTI scans of a file, a folder, or the anat folders of a BIDS data set.

    CASE_0000.nii.gz, as nnU-Net names the scan of a case, is CASE. Raises InputError if there is none, or two of one
    case.
    """
    path = Path(source)
    if is_named(path) and not path.is_dir():
        files = [path]
    elif not path.is_dir():
        refuse_no_folder(path, "The scans do not exist.", expected="a scan, a folder or a BIDS data set")
    else:
        files = [p for p in (bids.anatomical_files(path) if bids.is_bids(path) else files_in(path)) if is_nifti_name(p)]
    cases: dict[str, Path] = {}
    for file in files:
        case = stem(file).removesuffix("_0000")
        if case in cases:
            raise InputError("Two files are of one scan.", file=file, found=str(cases[case]), hint="keep one of them")
        cases[case] = file
    if not cases:
        raise InputError("There are no scans in the folder.", file=path, expected="CASE.nii.gz", found="no NIfTI file")
    return cases


def regions_of(
    source: RegionSource, case: str, scan: nib.Nifti1Image, path: Path
) -> tuple[Parcellation, tuple[str, ...]]:
    """The region map of a scan, and what is to be said of it.

    Raises InputError for a map of another subject, another place in space or unknown numbers, one without white matter,
    and one of voxels too large to keep 2 mm from an edge.
    """
    nothing = image_like(np.zeros(scan.shape, np.uint8), scan, np.uint8)
    with _hints_of_painting():
        found = source(case, nothing, path)
    sizes = voxel_sizes(found.brain.affine)
    if sizes.max() > LARGEST_MM:
        raise InputError(
            "The voxels of the region map are too large to paint by.",
            file=path,
            expected=f"at most {LARGEST_MM:g} mm",
            found=in_mm(sizes),
            hint="make the map on the grid of the scan, or on 1 mm",
        )
    if not select(found.brain.structures, region=parcellation.WHITE_MATTER).any():
        raise InputError(
            "The region map has no white matter.",
            file=path,
            expected=f"a region {parcellation.WHITE_MATTER}, FreeSurfer's 2 and 41",
            found=few(sorted({s.name for s in found.brain.structures if s.name})),
        )
    return found.brain, found.notes


@contextlib.contextmanager
def _hints_of_painting() -> Iterator[None]:
    """Other hints in place of those of `quantify`'s reader of maps that name options which painting has not."""
    hint = "give a folder with each scan's own map, of SynthSeg, FastSurfer or FreeSurfer, or a lookup table beside it"
    try:
        yield
    except InputError as error:
        raise InputError.of(
            dataclasses.replace(p, hint=hint) if p.hint and "--region" in p.hint else p for p in error.problems
        ) from None


def _of_contrast(cases: Mapping[str, Path], contrast: str | None) -> tuple[str, dict[str, Path]]:
    """The contrast of the data set, which has one channel, and the cases whose names do not tell another one."""
    told = {case: contrast_in(case) for case in cases}
    if contrast is None:
        names = {name for name in told.values() if name in PAINTED_CONTRASTS}
        if len(names) != 1:
            raise InputError(
                "The names of the scans do not tell one contrast.",
                expected=" or ".join(PAINTED_CONTRASTS),
                found=few(sorted(names)) or few([path.name for path in cases.values()]),
                hint="name it: --contrast T1w; scans of another are left out",
            )
        (contrast,) = names
    elif contrast not in PAINTED_CONTRASTS:
        raise InputError(
            "There is no such contrast to paint into.", expected=" or ".join(PAINTED_CONTRASTS), found=contrast
        )
    chosen = {case: path for case, path in cases.items() if told[case] in (None, contrast)}
    if not chosen:
        raise InputError(
            "No scan is of the contrast.",
            expected=contrast,
            found=few([path.name for path in cases.values()]),
            hint="name the scans' contrast: --contrast",
        )
    return contrast, chosen


def _write_images(folder: Path, case: str, scan: nib.Nifti1Image, painted: PaintedScan) -> None:
    for name, array in (
        (f"imagesTr/{case}_0000", painted.image),
        (f"labelsTr/{case}", painted.label),
        (f"regions/{case}", painted.regions),
    ):
        write_image(folder / f"{name}.nii.gz", image_like(array, scan, array.dtype))


def _participant(case: str, painted: PaintedScan) -> dict:
    counts = {name: sum(p.region == value for p in painted.placed) for name, value in PAINTED_REGIONS.items()}
    return {
        "participant_id": case,
        "voxel_size_mm": "x".join(f"{v:.4g}" for v in voxel_sizes(painted.affine)),
        "white_signal": f"{painted.white:.5g}",
        "fluid_signal": f"{painted.fluid:.5g}",
        "n_pvs": len(painted.placed),
        **{f"n_pvs_{name.replace(' ', '_')}": count for name, count in counts.items()},
        "n_pvs_labelled": int((painted.voxels > 0).sum()),
        "pvs_volume_mm3": f"{sum(p.tube.volume for p in painted.placed):.1f}",
    }
