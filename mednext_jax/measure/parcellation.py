"""A map of one brain's structures: what lies where, how large each region is, and the shares of the basal ganglia and
of the centrum semiovale that no parcellation has as labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError, cKDTree

from mednext_jax.io.geometry import voxel_volume

WHITE_MATTER, BASAL_GANGLIA, CENTRUM_SEMIOVALE = "white matter", "basal ganglia", "centrum semiovale"
Tissue = Literal["", "white matter", "nucleus", "cortex", "csf", "ventricle"]


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a voxel belongs to. region: "" for none (cortex, fluid). hemisphere: "left", "right", or "" for none.

    lobe: of white matter, "" where the map does not say. part: "centrum semiovale" or "". tissue: what of it matters.
    """

    name: str
    region: str = ""
    hemisphere: str = ""
    lobe: str = ""
    part: str = ""
    tissue: Tissue = ""


NOWHERE = Structure("")


@dataclasses.dataclass(frozen=True)
class Parcellation:
    """The structures of one brain on a grid of its own. codes: (x, y, z), index into `structures`, 0 for none."""

    codes: np.ndarray
    structures: tuple[Structure, ...]  # the first is NOWHERE
    affine: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, affine: np.ndarray, names: Mapping[int, Structure]) -> Parcellation:
        """A label map (x, y, z) with the structures that its values mean; values without one are none."""
        used = [value for value in np.flatnonzero(np.bincount(values.ravel())) if int(value) in names]
        table = np.zeros(int(values.max(initial=0)) + 1, np.int16)
        table[used] = np.arange(1, len(used) + 1)
        return cls(table[values], (NOWHERE, *(names[int(value)] for value in used)), np.asarray(affine, np.float64))

    def codes_at(self, points: np.ndarray) -> np.ndarray:
        """Codes (n,) of the voxels nearest to `points` (n, 3) in mm; 0 outside of the map."""
        to_voxel = np.linalg.inv(self.affine)
        index = np.rint(points @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(np.int64)
        inside = ((index >= 0) & (index < self.codes.shape)).all(1)
        codes = np.zeros(len(points), self.codes.dtype)
        codes[inside] = self.codes[tuple(index[inside].T)]
        return codes

    def where(self, condition: np.ndarray) -> np.ndarray:
        """Voxels (n, 3) whose structure meets `condition`, (structures,) boolean as `select` gives."""
        return np.stack(np.unravel_index(np.flatnonzero(condition[self.codes]), self.codes.shape), 1)

    def points(self, voxels: np.ndarray) -> np.ndarray:
        """Centres (n, 3) in mm of voxels (n, 3)."""
        return voxels @ self.affine[:3, :3].T + self.affine[:3, 3]

    def volumes(self, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        """mm3 (structures,) of each structure that lie within a scan of this `shape` and `affine`."""
        codes = self.codes.ravel()
        if shape != self.codes.shape or not np.allclose(affine, self.affine, atol=1e-3):
            there = np.flatnonzero(codes)
            index = np.stack(np.unravel_index(there, self.codes.shape), 1)
            to_scan = np.linalg.inv(affine) @ self.affine
            at = index @ to_scan[:3, :3].T + to_scan[:3, 3]
            codes = codes[there[((at > -0.5) & (at < np.array(shape) - 0.5)).all(1)]]
        counts = np.bincount(codes, minlength=len(self.structures))
        return counts * voxel_volume(self.affine)

    def ventricles(self) -> cKDTree | None:
        """The centres, in mm, of the voxels at the ventricles' surface; None if there are none."""
        voxels = self.where(select(self.structures, tissue="ventricle"))
        if not len(voxels):
            return None
        low = voxels.min(0) - 1
        inside = np.zeros(voxels.max(0) - low + 2, bool)
        inside[tuple((voxels - low).T)] = True
        return cKDTree(self.points(np.argwhere(inside & ~ndimage.binary_erosion(inside)) + low))

    def refined(self) -> Parcellation:
        """With sides for white matter that has none, internal capsule in the basal ganglia, and centrum semiovale.

        For a map with cerebral white matter of both sides; any other comes back as it is.
        """
        voxels = _Voxels(self)
        voxels.find_sides()
        voxels.find_internal_capsule()
        voxels.find_centrum_semiovale()
        codes = self.codes.copy()
        codes[tuple(voxels.index.T)] = voxels.codes
        return dataclasses.replace(self, codes=codes, structures=tuple(voxels.structures))


class _Voxels:
    """The voxels of a brain that may change their structure, and those that say where."""

    def __init__(self, brain: Parcellation):
        self.structures = list(brain.structures)
        self.index = brain.where(
            np.array([s.tissue in ("white matter", "nucleus", "ventricle") for s in self.structures])
        )
        self.codes = brain.codes[tuple(self.index.T)]
        self.points = brain.points(self.index)
        self.axial = axial_axis(brain.affine)

    def find_sides(self) -> None:
        """White matter without a side (hypointensities, corpus callosum) takes that of its place.

        The plane between the sides lies midway between their centres of white matter.
        """
        left, right = (self._are(region=WHITE_MATTER, hemisphere=h) for h in ("left", "right"))
        if not left.any() or not right.any():
            return
        none = self._are(region=WHITE_MATTER, hemisphere="")
        middles = [self.points[side].mean(0) for side in (left, right)]
        is_right = (self.points - np.mean(middles, axis=0)) @ (middles[1] - middles[0]) > 0
        self._change(none & ~is_right, hemisphere="left")
        self._change(none & is_right, hemisphere="right")

    def find_internal_capsule(self) -> None:
        """White matter between the nuclei of one side belongs to the basal ganglia.

        As SHiVAi does: what lies in the convex hull of the basal ganglia and thalamus, here in each axial slice that
        holds putamen or pallidum, so that the hull does not reach around the insula or along the caudate's tail.
        """
        in_plane = np.delete(self.index, self.axial, axis=1)
        for hemisphere in ("left", "right"):
            nuclei = self._by_level(self._are(tissue="nucleus", hemisphere=hemisphere))
            white = self._by_level(self._are(tissue="white matter", hemisphere=hemisphere))
            lentiform = [self._by_level(self._are(name=n, hemisphere=hemisphere)) for n in ("putamen", "pallidum")]
            inside = np.zeros(len(self.index), bool)
            for level in sorted({*lentiform[0], *lentiform[1]} & set(white)):
                corners, here = in_plane[nuclei[level]], white[level]
                try:
                    edges = ConvexHull(corners).equations  # a x + b y + c, not above 0 inside
                except (QhullError, ValueError):  # too few voxels, or all in a line
                    continue
                inside[here] = (in_plane[here] @ edges[:, :2].T + edges[:, 2] < 1e-9).all(1)
            self._change(inside, region=BASAL_GANGLIA, lobe="")

    def find_centrum_semiovale(self) -> None:
        """White matter above the roof of the lateral ventricles, as the visual scores rate it."""
        lateral = self._are(name="lateral ventricle")
        if lateral.any():
            above = self.points[:, 2] > self.points[lateral, 2].max()
            self._change(above & self._are(region=WHITE_MATTER), part=CENTRUM_SEMIOVALE)

    def _by_level(self, chosen: np.ndarray) -> dict[int, np.ndarray]:
        """Axial slice -> which of the chosen voxels lie in it."""
        which = np.flatnonzero(chosen)
        which = which[np.argsort(self.index[which, self.axial], kind="stable")]
        levels, first = np.unique(self.index[which, self.axial], return_index=True)
        return dict(zip(levels.tolist(), np.split(which, first[1:]), strict=True)) if len(which) else {}

    def _are(self, **fields: str) -> np.ndarray:
        return select(self.structures, **fields)[self.codes]

    def _change(self, where: np.ndarray, **fields: str) -> None:
        table = np.arange(len(self.structures), dtype=self.codes.dtype)
        for code in np.unique(self.codes[where]):
            table[code] = len(self.structures)
            self.structures.append(dataclasses.replace(self.structures[code], **fields))
        self.codes[where] = table[self.codes[where]]


def select(structures: Sequence[Structure], **fields: str) -> np.ndarray:
    """Which structures (structures,) have these fields, such as tissue="cortex"."""
    return np.array([all(getattr(s, name) == value for name, value in fields.items()) for s in structures])


def axial_axis(affine: np.ndarray) -> int:
    """The axis of an array along which its axial slices lie on each other: that nearest to superior."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return int(np.abs(directions[2]).argmax())
