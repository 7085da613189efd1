"""The files of a simulated data set: volumes, nnU-Net's description, participants, truth, region names."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.nifti import write_image
from mednext_jax.simulate.placement import Placed

FOLDERS = ("imagesTr", "labelsTr", "regions")


def make_folders(folder: Path) -> None:
    """Make the folders of the images, labels and region maps."""
    for name in FOLDERS:
        (folder / name).mkdir()


def write_tables(
    folder: Path,
    participants: Sequence[dict],
    truth: Sequence[dict],
    regions: Mapping[str, int],
    name: str,
    description: str,
    contrast: str,
    **more: object,
) -> None:
    """Write participants.tsv, truth.tsv, regions/regions.json and dataset.json of a data set of one channel.

    more: entries of dataset.json that differ or come on top, such as labels.
    """
    _write_table(folder / "participants.tsv", participants)
    _write_table(folder / "truth.tsv", truth)
    _write_json(folder / "regions" / "regions.json", dict(regions))
    _write_json(
        folder / "dataset.json",
        {
            "name": name,
            "description": description,
            "channel_names": {"0": contrast},
            "labels": {"background": 0, "pvs": 1},
            "numTraining": len(participants),
            "file_ending": ".nii.gz",
            **more,
        },
    )


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume (x, y, z) as a file whose qform and sform both are the affine, in mm."""
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    write_image(path, image)


def refuse_wrong_number(name: str, value: object, lowest: int, highest: int) -> None:
    """Raise InputError unless `value` is a whole number within these."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InputError(
            f"The number {name} is wrong.", expected=f"a whole number from {lowest} to {highest}", found=value
        )


def truth_rows(
    case: str,
    placed: Sequence[Placed],
    strength: np.ndarray,
    voxels: np.ndarray,
    regions: Mapping[str, int],
    to_world: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[dict]:
    """A row for each tube of a case. strength, voxels (labelled): (tubes,).

    regions: name -> value. to_world: from the tubes' positions (n, 3) to the mm of the affine; None if they are these.
    """
    names = {value: name for name, value in regions.items()}
    rows = []
    for number, one in enumerate(placed):
        tube = one.tube
        line = tube.points(0.1)
        middle = line[len(line) // 2]
        if to_world is not None:
            middle = to_world(middle[None])[0]
        rows.append(
            {
                "case": case,
                "pvs": number + 1,
                "region": names[one.region],
                "length_mm": f"{tube.length:.3f}",
                "width_mm": f"{tube.width:.3f}",
                "tip_width_mm": f"{tube.tip_width:.3f}",
                "volume_mm3": f"{tube.volume:.3f}",
                "bend_degrees": f"{np.degrees(tube.bend):.1f}",
                "strength": f"{strength[number]:.3f}",
                "voxels": int(voxels[number]),
                **{f"{axis}_mm": f"{value:.2f}" for axis, value in zip("xyz", middle, strict=True)},
            }
        )
    return rows


def _write_table(path: Path, rows: Sequence[dict]) -> None:
    with path.open("w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
