"""The published models of perivascular spaces that the project knows, and where they are to be had."""

from __future__ import annotations

import dataclasses
from pathlib import Path

BRIDGES = "https://bridges.monash.edu/articles/dataset/MUPPET/29588624"
DOI = "10.26180/29588624"
TREE = "MedNet-PVS_weights/nnUNet_trained_models/nnUNet/3d_fullres"


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """A published set of weights: the project's name for it, its folder in `TREE`, and what it finds."""

    name: str
    folder: str
    contrast: str
    about: str
    is_mednext: bool = True

    @property
    def path(self) -> str:
        """Where the set lies in the published tree."""
        return f"{TREE}/{self.folder}"


KNOWN = (
    KnownModel(
        "mednet_pvs_t1w",
        "Task004_3DStratifiedSplits",
        "T1w",
        "MedNeXt-L k5 of MedNet-PVS, PVS of white matter and basal ganglia, from 40 T1w scans of seven studies",
    ),
    KnownModel(
        "mednet_pvs_t2w",
        "Task019_HCP_T2w",
        "T2w",
        "MedNeXt-L k5 of MedNet-PVS, PVS of white matter, from 200 T2w scans of HCP-Aging",
    ),
    KnownModel(
        "mednet_pvs_t2w_nnunet",
        "Task030_nnunet_HCP_T2w",
        "T2w",
        "a U-Net of nnU-Net, no MedNeXt: refused; nnU-Net v1 itself runs it",
        is_mednext=False,
    ),
)


def known_name(text: str) -> KnownModel | None:
    """The model that the project calls so."""
    return next((model for model in KNOWN if model.name == text), None)


def known_folder(path: Path) -> KnownModel | None:
    """The published set that a path lies in, by the name of its task folder."""
    return next((model for model in KNOWN if model.folder in path.absolute().parts), None)
