"""Simulated perivascular spaces in a real template brain: one subject, or a data set in nnU-Net's raw format."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import gzip
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.pvs.acquisition import (
    CONTRASTS,
    Site,
    add_rician_noise,
    draw_sites,
    shading_field,
    texture,
    tissue_signal,
    truncate_kspace,
    unknown_contrast,
)
from mednext_jax.pvs.confounders import draw_hyperintensities, draw_lacunes, draw_sulci, paint_blobs
from mednext_jax.pvs.deform import Grid, draw_deformation
from mednext_jax.pvs.placement import Placed, PvsDistribution, Room, place_tubes
from mednext_jax.pvs.template import REGIONS, load_template
from mednext_jax.pvs.tubes import partial_volume

_PAINT_MM = 0.5  # largest voxel of the grid that is painted before k-space truncation
_MARGIN = 4  # voxels of background around the brain
# Share of the way from the tissue's signal to fluid's, low + (high - low) * Beta: perivascular spaces are clear on
# T2w and hard to see on T1w (MedNet-PVS: voxel Dice 0.88 against 0.58 on the same people).
_STRENGTH = {"T2w": (0.2, 0.9, 4.0, 2.0), "T1w": (0.2, 0.7, 2.0, 2.0)}
_HYPERINTENSITY = {"T2w": (0.2, 0.45), "T1w": (0.1, 0.3)}
_LACUNE = (0.7, 1.0)
# Each kind of draw has its own random stream, so that a subject has the same brain and the same PVS in any contrast.
_HEAD, _PVS, _OTHERS, _SCAN = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Subject:
    """One simulated scan, arrays (x, y, z) on `grid` as in a NIfTI file."""

    name: str
    site: Site
    grid: Grid
    image: np.ndarray  # int16, 0 outside the brain
    label: np.ndarray  # uint8, 1 where perivascular space fills more than half of the voxel
    regions: np.ndarray  # uint8, 1 white matter, 2 basal ganglia
    placed: list[Placed]
    strength: np.ndarray  # (len(placed),) share of the way from tissue to fluid
    voxels: np.ndarray  # (len(placed),) labelled voxels
    hyperintensities: int
    lacunes: int


def simulate_subject(
    index: int, site: Site, contrast: str = "T2w", seed: int = 0, pvs: PvsDistribution | None = None
) -> Subject:
    """Subject number `index` (from 0) scanned at `site`: a function of its arguments alone.

    The recipe follows Bernal 2022 (Magn Reson Imaging 93:33): paint at high resolution, truncate k-space, add Rician
    noise; with curved tapering tubes and a deformed template in place of straight cylinders in one head.
    Raises InputError for an unknown contrast or if the template packages are missing.
    """
    if contrast not in CONTRASTS:
        raise unknown_contrast(contrast)
    template = load_template()
    streams = {k: np.random.default_rng([seed, index, k]) for k in (_HEAD, _PVS, _OTHERS, _SCAN)}
    deformation = draw_deformation(streams[_HEAD], template.brain.shape)
    sulci = draw_sulci(streams[_HEAD], template)

    grid = deformation.box(template.brain, np.array(site.voxel_size), _MARGIN * max(site.voxel_size))
    brain = deformation.sample(template.brain, grid) > 0.5
    box = tuple(slice(s.start - _MARGIN, s.stop + _MARGIN) for s in ndimage.find_objects(brain.astype(np.uint8))[0])
    grid, brain = grid.cropped(box), brain[box]
    regions = deformation.sample(template.regions, grid, order=0)

    room = Room(regions, grid)
    lacunes = draw_lacunes(streams[_OTHERS], room, _LACUNE)
    lesions = draw_hyperintensities(streams[_OTHERS], room, template, deformation, _HYPERINTENSITY[contrast])
    placed = place_tubes(streams[_PVS], pvs or PvsDistribution(), room, template, deformation)
    low, high, *beta = _STRENGTH[contrast]
    strength = low + (high - low) * streams[_SCAN].beta(*beta, len(placed))

    factor = tuple(int(np.ceil(s / _PAINT_MM - 1e-6)) for s in site.voxel_size)
    fine = grid.refined(factor)
    to_fluid = np.zeros(fine.shape, np.float32)  # share of the way from the tissue's signal to fluid's
    for lesion in lesions:
        paint_blobs(to_fluid, lesion, fine)
    paint_blobs(to_fluid, lacunes, fine)
    filled = np.zeros(grid.shape, np.float32)  # share of an acquired voxel that is perivascular space
    voxels = np.zeros(len(placed), np.int64)
    for number, one in enumerate(placed):
        at, share = partial_volume(one.tube, fine)
        cells = tuple(at.T)
        to_fluid[cells] = 1 - (1 - to_fluid[cells]) * (1 - share * np.float32(strength[number]))
        coarse = tuple((at // factor).T)
        np.add.at(filled, coarse, share / np.float32(np.prod(factor)))
        voxels[number] = len(np.unique(np.ravel_multi_index([c[filled[coarse] > 0.5] for c in coarse], grid.shape)))

    signal = tissue_signal(template, contrast, site, sulci)
    mask = ndimage.binary_dilation(brain, iterations=2)
    for axis, f in enumerate(factor):
        mask = mask.repeat(f, axis)
    painted = deformation.sample(signal.volume, fine, where=mask)
    to_fluid *= np.float32(signal.fluid) - painted
    painted += to_fluid
    del to_fluid, mask

    rng = streams[_SCAN]
    image = truncate_kspace(painted, factor)
    image *= texture(rng, image.shape, 1.2, 0.02)
    image *= shading_field(rng, image.shape, site.shading)
    image = add_rician_noise(rng, image, signal.white / site.snr)
    image = np.where(brain, np.clip(np.rint(image * site.scale), 1, 32767), 0).astype(np.int16)
    label = (filled > 0.5).astype(np.uint8)
    name = f"sub-{index + 1:03d}"
    return Subject(name, site, grid, image, label, regions, placed, strength, voxels, len(lesions), len(lacunes))


def simulate_dataset(
    out: str | os.PathLike,
    subjects: int,
    contrast: str = "T2w",
    sites: int = 1,
    seed: int = 0,
    voxel_size: float = 1.0,
    pvs: PvsDistribution | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write `subjects` simulated scans as an nnU-Net raw data set into the new folder `out`; returns it.

    Writes dataset.json, imagesTr/CASE_0000.nii.gz (int16, skull-stripped, cropped to 4 voxels around the brain),
    labelsTr/CASE.nii.gz (uint8), regions/CASE.nii.gz + regions.json (1 white matter, 2 basal ganglia),
    participants.tsv (a row a subject) and truth.tsv (a row a perivascular space, mm).
    The same seed gives the same bytes, and a subject does not depend on how many others there are.
    voxel_size: mm, of the first site. workers: threads, each of about 0.7 GiB at 1 mm; default up to 4.
    progress: called with (subjects done, subjects); default a bar on a terminal.
    Raises InputError if an argument is wrong, `out` holds something already, or the template packages are missing.
    """
    _check(subjects, contrast, sites, seed, voxel_size)
    drawn = draw_sites(seed, sites, contrast, voxel_size)
    with atomic_directory(out) as folder:
        load_template()  # once, before threads could each read it
        for name in ("imagesTr", "labelsTr", "regions"):
            (folder / name).mkdir()

        def work(index: int) -> tuple[dict, list[dict]]:
            subject = simulate_subject(index, drawn[index % sites], contrast, seed, pvs)
            _write_images(folder, subject)
            return _participant(subject), _truth(subject)

        workers = workers or min(4, os.cpu_count() or 1, subjects)
        rows = []
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            try:
                with tqdm(total=subjects, desc="simulate", unit="subject", disable=True if progress else None) as bar:
                    for row in pool.map(work, range(subjects)):
                        rows.append(row)
                        bar.update()
                        if progress:
                            progress(len(rows), subjects)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # an error or Ctrl-C: start no other subject
                raise
        _write_table(folder / "participants.tsv", [participant for participant, _ in rows])
        _write_table(folder / "truth.tsv", [line for _, lines in rows for line in lines])
        _write_json(folder / "regions" / "regions.json", REGIONS)
        _write_json(
            folder / "dataset.json",
            {
                "name": f"simulated PVS {contrast}",
                "description": "Perivascular spaces simulated by mednext-jax in the ICBM 2009a template; not real scans.",
                "channel_names": {"0": contrast},
                "labels": {"background": 0, "pvs": 1},
                "numTraining": subjects,
                "file_ending": ".nii.gz",
            },
        )
    return Path(out)


def _check(subjects: int, contrast: str, sites: int, seed: int, voxel_size: float) -> None:
    if contrast not in CONTRASTS:
        raise unknown_contrast(contrast)
    for name, value, low, high in (
        ("subjects", subjects, 1, 100_000),
        ("sites", sites, 1, 1000),
        ("seed", seed, 0, 2**63),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(
                f"The number {name} is wrong.", expected=f"a whole number from {low} to {high}", found=value
            )
    if not 0.5 <= voxel_size <= 3:
        raise InputError("The voxel size is wrong.", expected="0.5 to 3 mm", found=voxel_size)


def _write_images(folder: Path, subject: Subject) -> None:
    name = subject.name
    _write_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", subject.image, subject.grid)
    _write_nifti(folder / "labelsTr" / f"{name}.nii.gz", subject.label, subject.grid)
    _write_nifti(folder / "regions" / f"{name}.nii.gz", subject.regions, subject.grid)


def _write_nifti(path: Path, array: np.ndarray, grid: Grid) -> None:
    image = nib.Nifti1Image(array, grid.affine)
    image.set_qform(grid.affine, code="scanner")
    image.set_sform(grid.affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    # No time and no name in the gzip header: the same voxels are the same bytes.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def _participant(subject: Subject) -> dict:
    in_region = {name: sum(p.region == value for p in subject.placed) for name, value in REGIONS.items()}
    return {
        "participant_id": subject.name,
        "site": subject.site.name,
        "voxel_size_mm": "x".join(f"{v:g}" for v in subject.site.voxel_size),
        "snr": f"{subject.site.snr:.1f}",
        "n_pvs": len(subject.placed),
        **{f"n_pvs_{name.replace(' ', '_')}": count for name, count in in_region.items()},
        "n_pvs_labelled": int((subject.voxels > 0).sum()),
        "pvs_volume_mm3": f"{sum(p.tube.volume for p in subject.placed):.1f}",
        "n_hyperintensities": subject.hyperintensities,
        "n_lacunes": subject.lacunes,
    }


def _truth(subject: Subject) -> list[dict]:
    names = {value: name for name, value in REGIONS.items()}
    rows = []
    for number, placed in enumerate(subject.placed):
        tube = placed.tube
        line = tube.points(0.1)
        middle = line[len(line) // 2]
        rows.append(
            {
                "case": subject.name,
                "pvs": number + 1,
                "region": names[placed.region],
                "length_mm": f"{tube.length:.3f}",
                "width_mm": f"{tube.width:.3f}",
                "tip_width_mm": f"{tube.tip_width:.3f}",
                "volume_mm3": f"{tube.volume:.3f}",
                "bend_degrees": f"{np.degrees(tube.bend):.1f}",
                "strength": f"{subject.strength[number]:.3f}",
                "voxels": int(subject.voxels[number]),
                **{f"{axis}_mm": f"{value:.2f}" for axis, value in zip("xyz", middle, strict=True)},
            }
        )
    return rows


def _write_table(path: Path, rows: Iterable[dict]) -> None:
    rows = list(rows)
    with path.open("w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
