"""FreeSurfer's numbers: aseg, aparc+aseg, wmparc and brainstem substructures; FastSurfer and SynthSeg write the same.

Source: FreeSurferColorLUT.txt; lobes by FreeSurfer's mri_annotation2label --lobesStrict.
"""

from __future__ import annotations

import numpy as np

from mednext_jax.measure.parcellation import BASAL_GANGLIA, WHITE_MATTER, Structure, Tissue

# (left, right): name, region, tissue
_PAIRS: dict[tuple[int, int], tuple[str, str, Tissue]] = {
    (2, 41): ("cerebral white matter", WHITE_MATTER, "white matter"),
    (5001, 5002): ("deep white matter", WHITE_MATTER, "white matter"),
    (3, 42): ("cerebral cortex", "", "cortex"),
    (4, 43): ("lateral ventricle", "", "ventricle"),
    (5, 44): ("inferior lateral ventricle", "", "ventricle"),
    (7, 46): ("cerebellar white matter", "cerebellum", ""),
    (8, 47): ("cerebellar cortex", "cerebellum", ""),
    (10, 49): ("thalamus", "thalamus", "nucleus"),
    (11, 50): ("caudate", BASAL_GANGLIA, "nucleus"),
    (12, 51): ("putamen", BASAL_GANGLIA, "nucleus"),
    (13, 52): ("pallidum", BASAL_GANGLIA, "nucleus"),
    (26, 58): ("accumbens", BASAL_GANGLIA, "nucleus"),
    (17, 53): ("hippocampus", "hippocampus", ""),
    (18, 54): ("amygdala", "amygdala", ""),
    (28, 60): ("ventral diencephalon", "ventral diencephalon", ""),
    (31, 63): ("choroid plexus", "", "ventricle"),
    (78, 79): ("white matter hypointensities", WHITE_MATTER, "white matter"),
}
_SINGLE: dict[int, tuple[str, str, Tissue]] = {
    14: ("third ventricle", "", "ventricle"),
    15: ("fourth ventricle", "", "ventricle"),
    16: ("brainstem", "brainstem", ""),
    24: ("cerebrospinal fluid", "", "csf"),
    72: ("fifth ventricle", "", "ventricle"),
    77: ("white matter hypointensities", WHITE_MATTER, "white matter"),
    80: ("other hypointensities", "", ""),
    85: ("optic chiasm", "", ""),
    173: ("midbrain", "midbrain", ""),
    174: ("pons", "brainstem", ""),
    175: ("medulla", "brainstem", ""),
    178: ("superior cerebellar peduncle", "brainstem", ""),
    257: ("cerebrospinal fluid outside the brain", "", "csf"),
    **dict.fromkeys(range(251, 256), ("corpus callosum", WHITE_MATTER, "white matter")),
}
# Numbers that are read and belong to nothing: vessels, skull, not in the brain.
_IGNORED = {30: "vessel", 62: "vessel", 29: "undetermined", 61: "undetermined", 258: "head outside the brain"}
_LOBES = {
    "frontal": (3, 12, 14, 17, 18, 19, 20, 24, 27, 28, 32),
    "parietal": (8, 22, 25, 29, 31),
    "temporal": (1, 6, 7, 9, 15, 16, 30, 33, 34),
    "occipital": (5, 11, 13, 21),
    "cingulate": (2, 10, 23, 26),
    "insula": (35,),
}
# A map is taken for one of FreeSurfer if it has both sides' white matter and at most this share of unknown voxels.
UNKNOWN_SHARE = 0.02


def _structures() -> dict[int, Structure]:
    found = {value: Structure(name, region, tissue=tissue) for value, (name, region, tissue) in _SINGLE.items()}
    found |= {value: Structure(name) for value, name in _IGNORED.items()}
    for sides, (name, region, tissue) in _PAIRS.items():
        lobe = "deep" if name == "deep white matter" else ""
        for value, hemisphere in zip(sides, ("left", "right"), strict=True):
            found[value] = Structure(name, region, hemisphere, lobe, tissue=tissue)
    lobe_of = {parcel: lobe for lobe, parcels in _LOBES.items() for parcel in parcels}
    for parcel in range(36):  # of the Desikan-Killiany atlas; 0 unknown, 4 corpus callosum
        lobe = lobe_of.get(parcel, "")
        for start, hemisphere in ((1000, "left"), (2000, "right")):
            found[start + parcel] = Structure("cerebral cortex", "", hemisphere, tissue="cortex")
            white = Structure("cerebral white matter", WHITE_MATTER, hemisphere, lobe, tissue="white matter")
            found[start + 2000 + parcel] = white
    for start, hemisphere in ((11100, "left"), (12100, "right")):  # Destrieux: aparc.a2009s+aseg
        found |= {start + parcel: Structure("cerebral cortex", "", hemisphere, tissue="cortex") for parcel in range(76)}
    return found


FREESURFER: dict[int, Structure] = _structures()


def is_freesurfer(values: np.ndarray) -> bool:
    """Whether a label map uses FreeSurfer's numbers: white matter of both sides, and hardly anything unknown."""
    counts = np.bincount(values.ravel())
    there = np.flatnonzero(counts[1:]) + 1
    sides = {FREESURFER[int(v)].hemisphere for v in there if int(v) in FREESURFER and _is_white(FREESURFER[int(v)])}
    unknown = sum(int(counts[v]) for v in there if int(v) not in FREESURFER)
    return {"left", "right"} <= sides and unknown <= UNKNOWN_SHARE * counts[1:].sum()


def _is_white(structure: Structure) -> bool:
    return structure.region == WHITE_MATTER
