"""Whole scans from the generator that makes training patches, as an nnU-Net raw data set."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.simulate import tissues
from mednext_jax.simulate.anatomy import REGIONS, Anatomy, read_anatomies, stacked, template_anatomy
from mednext_jax.simulate.dataset_files import make_folders, refuse_wrong_number, write_tables, write_volume
from mednext_jax.simulate.generator import IGNORED, LESION, PVS, Patch, generate
from mednext_jax.simulate.generator_config import GeneratorConfig

CONTRASTS = (*tissues.FAMILIES, "mixed")  # mixed: T1w, T2w and FLAIR in turn
_SCALE = 1000  # of the stored intensities
_MARGIN = 1.2  # of the box around a head, which may be drawn larger
_REGION_OF_TISSUE = np.zeros(len(tissues.TISSUES), np.uint8)  # as in the files: 0 none, index into REGIONS + 1
_REGION_OF_TISSUE[tissues.WHITE_MATTER] = 1
_REGION_OF_TISSUE[list(tissues.BASAL_GANGLIA)] = 2
_REGION_OF_TISSUE[tissues.HIPPOCAMPUS] = 3
_REGION_OF_TISSUE[tissues.BRAINSTEM] = 4


def anatomies_of(config: GeneratorConfig) -> list[Anatomy]:
    """The anatomies that a configuration names; raises InputError as `read_anatomies`, or for too few of them."""
    found = read_anatomies(config.anatomy) if config.anatomy else [template_anatomy()]
    if config.anatomy and len(found) <= config.held_out:
        raise InputError(
            "The folder has too few label maps to keep some from training.",
            file=config.anatomy,
            expected=f"more than {config.held_out}, or a smaller number that is held out",
            found=len(found),
        )
    return found


def training_and_held_out(config: GeneratorConfig, anatomies: Sequence[Anatomy]) -> tuple[list[Anatomy], list[Anatomy]]:
    """The anatomies to train in and those to validate in: the last ones, or where none is held out all of them."""
    if not config.anatomy or not config.held_out:
        return list(anatomies), list(anatomies)
    return list(anatomies[: -config.held_out]), list(anatomies[-config.held_out :])


def digest(anatomies: Sequence[Anatomy]) -> str:
    """What tells these anatomies from others, in twelve letters."""
    return hashlib.sha256("".join(sorted(one.sha256 for one in anatomies)).encode()).hexdigest()[:12]


def simulate_heads(
    out: Path,
    subjects: int,
    contrast: str,
    seed: int,
    config: GeneratorConfig,
    anatomies: Sequence[Anatomy],
    *,
    name: str | None = None,
    channel: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write `subjects` whole scans of 1 mm in these anatomies as an nnU-Net raw data set into the new folder `out`.

    contrast: T1w, T2w, FLAIR, any (tissues' signals drawn freely), or mixed: each scan's own. Files as
    `simulate.simulate`'s, with label 1 perivascular space, 2 lesion (if they are an output), the last label what is
    too faint to count (nnU-Net's ignore label). A scan is a function of (seed, its number), the configuration and the
    anatomies. Raises InputError if an argument is wrong or `out` holds something already.
    """
    if contrast not in CONTRASTS:
        raise InputError("There is no such contrast to simulate.", expected=" or ".join(CONTRASTS), found=contrast)
    refuse_wrong_number("subjects", subjects, 1, 100_000)
    refuse_wrong_number("seed", seed, 0, 2**63 - 1)
    arrays = {key: jnp.asarray(value) for key, value in stacked(anatomies).items()}
    depth, height, width = (8 * int(np.ceil(n * _MARGIN / 8)) for n in arrays["tissue"].shape[1:])
    make = jax.jit(functools.partial(generate, config=config, shape=(depth, height, width), whole=True))
    with atomic_directory(out) as folder, concurrent.futures.ThreadPoolExecutor(1) as pool:
        make_folders(folder)
        participants, truth, writing = [], [], []
        with tqdm(total=subjects, desc="simulate", unit="subject", disable=True if progress else None) as bar:
            for number in range(subjects):
                family = tissues.FAMILIES.index(contrast) if contrast != "mixed" else number % 3
                case = f"sub-{number + 1:03d}_{tissues.FAMILIES[family]}"
                index = number % len(anatomies)
                key = jax.random.fold_in(jax.random.key(seed), number)
                # Every fourth head keeps its skull.
                scan = jax.device_get(make(key, arrays, index=index, family=family, extracted=number % 4 != 3))
                participants.append(_participant(case, anatomies[index], family, scan))
                truth += _truth(case, scan)
                writing.append(pool.submit(_write, folder, case, scan, config))
                bar.update()
                if progress:
                    progress(number + 1, subjects)
            for one in writing:
                one.result()
        labels, order = {"background": 0, "pvs": [PVS], "lesion": [LESION]}, [PVS, LESION]
        if not config.lesions_as_output:
            del labels["lesion"], order[1]
        write_tables(
            folder,
            participants,
            truth,
            {region: number + 1 for number, region in enumerate(REGIONS)},
            name or f"simulated PVS {contrast} in label maps {digest(anatomies)}",
            "Simulated by mednext-jax in label maps of heads; not real scans.",
            channel or ("MRI" if contrast in ("mixed", "any") else contrast),
            labels={**labels, "ignore": _ignored(config)},
            regions_class_order=order,
        )
    return out


def _ignored(config: GeneratorConfig) -> int:
    return IGNORED if config.lesions_as_output else LESION  # nnU-Net: the number after the last class


def _write(folder: Path, case: str, scan: Patch, config: GeneratorConfig) -> None:
    label = np.where(scan.label == IGNORED, _ignored(config), scan.label).astype(np.uint8)
    image = np.where(scan.brain, np.clip(np.rint(scan.raw * _SCALE), 1, 32767), 0).astype(np.int16)
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -(np.array(image.shape[::-1]) - 1) / 2
    for part, name, array in (
        ("imagesTr", f"{case}_0000.nii.gz", image),
        ("labelsTr", f"{case}.nii.gz", label),
        ("regions", f"{case}.nii.gz", _REGION_OF_TISSUE[scan.tissue]),
    ):
        write_volume(folder / part / name, array.transpose(2, 1, 0), affine)


def _participant(case: str, anatomy: Anatomy, family: int, scan: Patch) -> dict:
    where = _regions(scan)
    return {
        "participant_id": case,
        "anatomy": anatomy.name,
        "contrast": tissues.FAMILIES[family],
        "acquired_mm": "x".join(f"{size:.2f}" for size in scan.spacing[::-1]),
        "n_pvs": int((where > 0).sum()),
        **{
            f"n_pvs_{region.replace(' ', '_')}": int((where == number).sum())
            for number, region in enumerate(REGIONS, 1)
        },
        "pvs_volume_mm3": f"{scan.filled.sum():.1f}",
        "labelled_voxels": int((scan.label == PVS).sum()),
        "lesion_voxels": int((scan.label == LESION).sum()),
    }


def _regions(scan: Patch) -> np.ndarray:
    """(m,) of tubes: the region that the middle lies in, as in the files; 0 for those that left nothing.

    Those out of the head or in tissue that has none of them were not painted; and one that was drawn for a region can
    lie in another, as in an anatomy without the first.
    """
    middle = np.rint(scan.tubes.middle).astype(int)
    inside: np.ndarray = np.all((middle >= 0) & (middle < scan.filled.shape), axis=1)
    index = tuple(np.where(inside[:, None], middle, 0).T)
    painted = np.asarray(scan.tubes.there & inside & (scan.filled[index] > 0))
    return np.where(painted, _REGION_OF_TISSUE[scan.tissue[index]], 0)


def _truth(case: str, scan: Patch) -> list[dict]:
    """A row per tube; positions in the mm of the image's affine."""
    tubes, where, rows = scan.tubes, _regions(scan), list[dict]()
    middle = (np.array(scan.filled.shape) - 1) / 2
    for one in np.flatnonzero(where):
        d, h, w = tubes.middle[one] - middle
        rows.append(
            {
                "case": case,
                "pvs": len(rows) + 1,
                "region": REGIONS[where[one] - 1],
                "length_mm": f"{tubes.length[one]:.3f}",
                "width_mm": f"{tubes.width[one]:.3f}",
                "tip_width_mm": f"{tubes.width[one] * tubes.taper[one]:.3f}",
                "volume_mm3": f"{tubes.volume[one]:.3f}",
                "strength": f"{tubes.strength[one]:.3f}",
                **{f"{axis}_mm": f"{value:.2f}" for axis, value in zip("xyz", (w, h, d), strict=True)},
            }
        )
    return rows
