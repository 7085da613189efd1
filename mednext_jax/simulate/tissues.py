"""The tissues that the generator tells apart: their numbers in label maps, and how bright they are on each contrast."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import jax
import numpy as np

from mednext_jax.measure.freesurfer import FREESURFER

_Array = TypeVar("_Array", np.ndarray, jax.Array)

T1W, T2W, FLAIR, ANY = range(4)  # families of contrast; ANY: every tissue's signal drawn freely
FAMILIES = ("T1w", "T2w", "FLAIR", "any")


@dataclasses.dataclass(frozen=True)
class HeadTissue:
    """One class of the generator. signals: T1w, T2w, FLAIR, on a scale where 1 is about the brightest tissue.

    structures: names of `FREESURFER`'s structures; numbers: further numbers of label maps.
    """

    name: str
    signals: tuple[float, float, float] | None = None  # None: drawn freely on every contrast
    structures: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


# Signals: typical 3 T magnitudes relative to white matter on T1w (MPRAGE), CSF on T2w (TSE, TE about 100 ms), grey
# matter on FLAIR; each draw scatters around them. Numbers above 500 are those of SynthSeg's training maps outside of
# the brain, 25 and 57 its lesions.
TISSUES = (
    HeadTissue("air", (0.0, 0.0, 0.0)),
    HeadTissue(
        "white matter",
        (0.75, 0.36, 0.45),
        ("cerebral white matter", "deep white matter", "corpus callosum", "optic chiasm"),
    ),
    HeadTissue("cortex", (0.50, 0.50, 0.60), ("cerebral cortex",)),
    HeadTissue(
        "ventricle",
        (0.15, 0.93, 0.12),
        ("lateral ventricle", "inferior lateral ventricle", "third ventricle", "fourth ventricle", "fifth ventricle"),
    ),
    HeadTissue("fluid", (0.17, 0.93, 0.15), ("cerebrospinal fluid", "cerebrospinal fluid outside the brain")),
    HeadTissue("cerebellar white matter", (0.74, 0.36, 0.45), ("cerebellar white matter",)),
    HeadTissue("cerebellar cortex", (0.50, 0.50, 0.58), ("cerebellar cortex",)),
    HeadTissue("thalamus", (0.60, 0.43, 0.52), ("thalamus",)),
    HeadTissue("caudate", (0.52, 0.48, 0.58), ("caudate", "accumbens")),
    HeadTissue("putamen", (0.55, 0.43, 0.55), ("putamen",)),
    HeadTissue("pallidum", (0.66, 0.32, 0.45), ("pallidum",)),
    HeadTissue(
        "brainstem",
        (0.70, 0.38, 0.48),
        ("brainstem", "midbrain", "pons", "medulla", "superior cerebellar peduncle", "ventral diencephalon"),
    ),
    HeadTissue("hippocampus", (0.50, 0.52, 0.62), ("hippocampus", "amygdala")),
    HeadTissue("vessel", (0.40, 0.15, 0.20), ("vessel",)),
    HeadTissue("choroid plexus", (0.55, 0.60, 0.65), ("choroid plexus",)),
    HeadTissue("lesion", (0.58, 0.60, 0.80), ("white matter hypointensities", "other hypointensities"), (25, 57)),
    HeadTissue("other brain", (0.52, 0.48, 0.58), ("undetermined",), (136, 137, 163, 164)),
    *(
        HeadTissue(f"outside the brain {number}", None, ("head outside the brain",) if number == 516 else (), (number,))
        for number in (502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530)
    ),
)
_INDEX = {tissue.name: index for index, tissue in enumerate(TISSUES)}
AIR, WHITE_MATTER, CORTEX, VENTRICLE, FLUID, VESSEL, LESION = (
    _INDEX[name] for name in ("air", "white matter", "cortex", "ventricle", "fluid", "vessel", "lesion")
)
BASAL_GANGLIA = tuple(_INDEX[name] for name in ("thalamus", "caudate", "putamen", "pallidum"))
HIPPOCAMPUS, BRAINSTEM = _INDEX["hippocampus"], _INDEX["brainstem"]
# What perivascular spaces may lie in.
WITH_PVS = (WHITE_MATTER, *BASAL_GANGLIA, HIPPOCAMPUS, BRAINSTEM)
IN_BRAIN = tuple(range(1, _INDEX["other brain"] + 1))
SIGNALS = np.array([[0.0] * 3 if tissue.signals is None else tissue.signals for tissue in TISSUES], np.float32).T
HAS_SIGNAL = np.array([tissue.signals is not None for tissue in TISSUES])
UNKNOWN = 255  # in the table below
LARGEST_NUMBER = 20_000


def _numbers() -> np.ndarray:
    """Number of a label map -> index into TISSUES, UNKNOWN for others."""
    table = np.full(LARGEST_NUMBER + 1, UNKNOWN, np.uint8)
    by_structure = {name: index for index, tissue in enumerate(TISSUES) for name in tissue.structures}
    for number, structure in FREESURFER.items():
        table[number] = by_structure.get(structure.name, UNKNOWN)
    for index, tissue in enumerate(TISSUES):
        table[list(tissue.numbers)] = index
    table[0] = AIR
    return table


TISSUE_OF_NUMBER = _numbers()


def in_brain(tissue: _Array) -> _Array:
    """Where the tissue (indices into TISSUES, of NumPy or JAX) is the brain's or its fluid: neither air nor head."""
    return (tissue > AIR) & (tissue <= max(IN_BRAIN))
