"""A data set of simulated perivascular spaces in nnU-Net's raw format."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.simulate.acquisition import draw_sites, refuse_unknown_contrast
from mednext_jax.simulate.dataset_files import (
    make_folders,
    refuse_wrong_number,
    truth_rows,
    write_tables,
    write_volume,
)
from mednext_jax.simulate.placement import PvsDistribution
from mednext_jax.simulate.subject import Subject, simulate_subject
from mednext_jax.simulate.template import REGIONS, load_template


def simulate(
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
    participants.tsv (one row per subject) and truth.tsv (one row per perivascular space, mm).
    The same seed gives the same bytes, and a subject does not depend on how many others there are.
    voxel_size: mm, of the first site.
    workers: threads, each of about 0.5 GiB at 1 mm and 1.1 GiB at 0.7 mm; default up to 4.
    progress: called with (subjects done, subjects); default a bar on a terminal.
    Raises InputError if an argument is wrong, `out` holds something already, or the template packages are missing.
    """
    workers = min(4, os.cpu_count() or 1) if workers is None else workers
    _check(subjects, contrast, sites, seed, voxel_size, workers)
    drawn = draw_sites(seed, sites, contrast, voxel_size)
    with atomic_directory(out) as folder:
        load_template()  # once, before threads could each read it
        make_folders(folder)

        def work(index: int) -> tuple[dict, list[dict]]:
            subject = simulate_subject(index, drawn[index % sites], contrast, seed, pvs)
            _write_images(folder, subject)
            return _participant(subject), truth_rows(
                subject.name, subject.placed, subject.strength, subject.voxels, REGIONS
            )

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
        write_tables(
            folder,
            [participant for participant, _ in rows],
            [line for _, lines in rows for line in lines],
            REGIONS,
            f"simulated PVS {contrast}",
            "Simulated by mednext-jax in the ICBM 2009a template; not real scans.",
            contrast,
        )
    return Path(out)


def _check(subjects: int, contrast: str, sites: int, seed: int, voxel_size: float, workers: int) -> None:
    refuse_unknown_contrast(contrast)
    for name, value, low, high in (
        ("subjects", subjects, 1, 100_000),
        ("sites", sites, 1, 1000),
        ("seed", seed, 0, 2**63),
        ("workers", workers, 1, 256),
    ):
        refuse_wrong_number(name, value, low, high)
    if not 0.7 <= voxel_size <= 3:
        raise InputError("The voxel size is wrong.", expected="0.7 to 3 mm", found=voxel_size)


def _write_images(folder: Path, subject: Subject) -> None:
    name = subject.name
    affine = subject.grid.affine
    write_volume(folder / "imagesTr" / f"{name}_0000.nii.gz", subject.image, affine)
    write_volume(folder / "labelsTr" / f"{name}.nii.gz", subject.label, affine)
    write_volume(folder / "regions" / f"{name}.nii.gz", subject.regions, affine)


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
