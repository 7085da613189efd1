"""Perivascular spaces painted into a real scan: its own noise, texture and cortex around them, and exact truth."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage
from scipy.spatial import cKDTree

from mednext_jax.errors import InputError
from mednext_jax.measure import parcellation
from mednext_jax.measure.parcellation import Parcellation, select
from mednext_jax.simulate.acquisition import PAINTED_CONTRASTS, draw_strengths
from mednext_jax.simulate.deform import VoxelGrid
from mednext_jax.simulate.placement import Outward, Placed, PvsDistribution, Room, place_tubes
from mednext_jax.simulate.template import BASAL_GANGLIA, BRAINSTEM, HIPPOCAMPUS, REGIONS, WHITE_MATTER
from mednext_jax.simulate.tubes import partial_volume

PAINTED_REGIONS = {**REGIONS, "hippocampus": HIPPOCAMPUS, "brainstem": BRAINSTEM}
ASKED = PvsDistribution(hippocampus=(1, 6), brainstem=(1, 4))
# Gaussian standard deviation in voxels: with the voxel's own box, the width at half maximum (1.21 voxels) is that of
# the sinc that truncated k-space blurs with.
_PSF = 0.425
_TISSUE_MM = 2.0  # standard deviation of the Gaussian that the tissue's own signal is averaged with
_LEAST_WHITE_MM3, _LEAST_FLUID = 1000.0, 20  # of white matter; voxels of fluid
# Below the middle of putamen and pallidum: where the lenticulostriate arteries enter, mm to the front and up (MNI).
_ENTRY = np.array([3.0, -18.0])


@dataclasses.dataclass(frozen=True)
class PaintedScan:
    """A scan with painted perivascular spaces, arrays (x, y, z) on the scan's grid.

    touched: of each tube, the flat indices of the voxels that it fills in part, and the shares that it fills.
    """

    image: np.ndarray  # float32
    label: np.ndarray  # uint8, 1 where painted perivascular space fills more than half of the voxel
    regions: np.ndarray  # uint8, values of PAINTED_REGIONS
    placed: list[Placed]  # mm along the scan's axes, from the centre of its first voxel
    strength: np.ndarray  # (tubes,) share of the way from tissue to fluid
    touched: list[tuple[np.ndarray, np.ndarray]]
    fluid: float  # the signal of the scan's own ventricles
    white: float
    affine: np.ndarray

    @property
    def voxels(self) -> np.ndarray:
        """The number (tubes,) of labelled voxels of each tube."""
        label = self.label.reshape(-1)
        return np.array([np.count_nonzero(label[cells]) for cells, _ in self.touched], np.int64)

    def to_world(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, 3) of `placed` in the mm of the scan's affine."""
        return nib.affines.apply_affine(self.affine, positions / voxel_sizes(self.affine))


def paint_scan(
    scan: nib.Nifti1Image,
    brain: Parcellation,
    contrast: str,
    rng: np.random.Generator,
    pvs: PvsDistribution | None = None,
    *,
    file: object = None,
) -> PaintedScan:
    """Paint tubes into the white matter and basal ganglia of `scan`, and hippocampus and brainstem if `brain` has them.

    Shapes, places and shares of the way to fluid are drawn as in the simulation (`placement`, `draw_strengths`); fluid
    is the median of the scan's own ventricles. A tube's share of each voxel is blurred by a Gaussian that makes the
    voxel's box as wide as a scanner's point spread function, and moves the voxel by that share of what lies between the
    local mean of the tissue and fluid, so that the scan's noise and texture stay. A scan that was interpolated from
    thicker slices is blurrier than this.
    `file`: named by InputError, for a contrast that is not known, a map without white matter or fluid where the scan
    has a signal, and fluid that does not look like it.
    """
    if contrast not in PAINTED_CONTRASTS:
        raise InputError(
            "There is no such contrast to paint into.", file=file, expected=", ".join(PAINTED_CONTRASTS), found=contrast
        )
    image = np.asarray(scan.dataobj, np.float32)
    spacing = voxel_sizes(scan.affine)
    grid = VoxelGrid(image.shape, spacing, np.zeros(3))
    codes = codes_on(brain, image.shape, scan.affine)
    codes[image == 0] = 0
    regions = _regions(brain, codes)
    if np.count_nonzero(regions == WHITE_MATTER) * spacing.prod() < _LEAST_WHITE_MM3:
        raise InputError(
            "The region map has no white matter in the scan.",
            file=file,
            expected="white matter, FreeSurfer's 2 and 41, where the scan is not 0",
            found=f"{np.count_nonzero(regions == WHITE_MATTER) * spacing.prod():.0f} mm3",
            hint="is the map this subject's, and of the whole brain?",
        )
    white = float(np.median(image[regions == WHITE_MATTER]))
    fluid = fluid_signal(image, codes, brain, file)
    _require_contrast(image[regions == WHITE_MATTER], white, fluid, contrast, file)
    room = Room(regions, grid)
    placed = place_tubes(rng, pvs or ASKED, room, _vessel_directions(brain, scan.affine, rng))
    strength = draw_strengths(rng, contrast, len(placed))
    touched, filled, moved = [], np.zeros(image.size, np.float32), np.zeros(image.shape, np.float32)
    for one, its_strength in zip(placed, strength, strict=True):
        at, share = partial_volume(one.tube, grid)
        cells = np.ravel_multi_index(tuple(at.T), image.shape)
        touched.append((cells, share))
        filled[cells] += share
        moved.reshape(-1)[cells] += share * np.float32(its_strength)
    painted = image + _blurred(moved) * (np.float32(fluid) - _local_mean(image, regions > 0, spacing))
    if image.min() >= 0:  # magnitudes; 0 is what lies outside of the brain
        painted = np.maximum(painted, image[image > 0].min())
    return PaintedScan(
        image=np.where(image == 0, image, painted).astype(np.float32),
        label=(filled.reshape(image.shape) > 0.5).astype(np.uint8),
        regions=regions,
        placed=placed,
        strength=strength,
        touched=touched,
        fluid=fluid,
        white=white,
        affine=np.asarray(scan.affine),
    )


def codes_on(brain: Parcellation, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """The codes of `brain` (index into its structures) at the voxels of a grid (x, y, z)."""
    if shape == brain.codes.shape and np.allclose(affine, brain.affine, atol=1e-3):
        return brain.codes.copy()
    plane = np.stack(np.meshgrid(*(np.arange(n) for n in shape[1:]), indexing="ij"), -1).reshape(-1, 2)
    codes = np.zeros(shape, brain.codes.dtype)
    for x in range(shape[0]):  # plane by plane, for the memory of the positions
        points = nib.affines.apply_affine(affine, np.insert(plane, 0, x, axis=1))
        codes[x] = brain.codes_at(points).reshape(shape[1:])
    return codes


def fluid_signal(image: np.ndarray, codes: np.ndarray, brain: Parcellation, file: object = None) -> float:
    """The median signal of cerebrospinal fluid: deep in the lateral ventricles, else in all fluid of the map.

    Raises InputError if the map has none where the scan has a signal.
    """
    structures = brain.structures
    lateral = select(structures, name="lateral ventricle")[codes]
    any_fluid = (select(structures, tissue="ventricle") | select(structures, tissue="csf"))[codes]
    for fluid in (ndimage.binary_erosion(lateral), lateral, any_fluid):
        if np.count_nonzero(fluid) >= _LEAST_FLUID:
            return float(np.median(image[fluid]))
    raise InputError(
        "The region map has no ventricles in the scan, whose signal the perivascular spaces would take.",
        file=file,
        expected="FreeSurfer's 4 and 43, or 24, where the scan is not 0",
        found=f"{np.count_nonzero(any_fluid)} voxels",
        hint="give a map with ventricles, and a scan whose fluid was not cut away",
    )


def _require_contrast(white: np.ndarray, middle: float, fluid: float, contrast: str, file: object) -> None:
    """Raise InputError unless fluid lies beyond the spread of white matter, on the contrast's side."""
    spread = 1.4826 * float(np.median(np.abs(white - middle)))
    bright = contrast == "T2w"
    if (fluid - middle if bright else middle - fluid) < 2 * spread:
        raise InputError(
            f"The ventricles of the region map do not look like fluid in a {contrast} scan.",
            file=file,
            expected=f"{'brighter' if bright else 'darker'} than white matter ({middle:.4g}, spread {spread:.3g})",
            found=f"{fluid:.4g}",
            hint="is the map this subject's, and the contrast right? name it: --contrast",
        )


def _regions(brain: Parcellation, codes: np.ndarray) -> np.ndarray:
    """The region map (x, y, z) of PAINTED_REGIONS; of the brainstem only the midbrain where the map tells it apart."""
    table = np.zeros(len(brain.structures), np.uint8)
    midbrain = select(brain.structures, region="midbrain")
    table[select(brain.structures, region="brainstem")] = 0 if midbrain.any() else BRAINSTEM
    table[midbrain] = BRAINSTEM
    table[select(brain.structures, region="hippocampus")] = HIPPOCAMPUS
    table[select(brain.structures, region=parcellation.BASAL_GANGLIA)] = BASAL_GANGLIA
    table[select(brain.structures, region=parcellation.WHITE_MATTER)] = WHITE_MATTER
    return table[codes]


def _vessel_directions(brain: Parcellation, affine: np.ndarray, rng: np.random.Generator) -> Outward:
    """Away from the nearest ventricle in white matter, from the entry of the perforators in the basal ganglia; in other
    regions any direction, as none is described."""
    spacing = voxel_sizes(affine)
    axes = affine[:3, :3] / spacing  # columns: the scan's axes in the world
    ventricles = brain.ventricles()
    entries = _entries(brain)

    def outward(positions: np.ndarray, region: int) -> np.ndarray:
        points = nib.affines.apply_affine(affine, positions / spacing)
        if region == BASAL_GANGLIA and entries is not None:
            offset = points - entries.data[entries.query(points)[1]]
        elif region == WHITE_MATTER and ventricles is not None:
            offset = points - ventricles.data[ventricles.query(points)[1]]
        else:
            offset = rng.standard_normal(points.shape)
        offset = offset @ np.linalg.inv(axes).T
        return offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-6)

    return outward


def _entries(brain: Parcellation) -> cKDTree | None:
    """Where the lenticulostriate arteries enter, one point (mm) for each side; None without basal ganglia."""
    basal = select(brain.structures, region=parcellation.BASAL_GANGLIA)
    lentiform = select(brain.structures, name="putamen") | select(brain.structures, name="pallidum")
    points = []
    for side in ("left", "right", ""):
        here = select(brain.structures, hemisphere=side)
        chosen = here & lentiform if (here & lentiform).any() else here & basal
        if chosen.any() and len(voxels := brain.where(chosen)):
            points.append(brain.points(voxels).mean(0) + [0, *_ENTRY])
    return cKDTree(np.array(points)) if points else None


def _blurred(moved: np.ndarray) -> np.ndarray:
    there = ndimage.find_objects((moved > 0).astype(np.uint8))
    blurred = np.zeros_like(moved)
    if there:
        box = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in there[0])
        blurred[box] = ndimage.gaussian_filter(np.minimum(moved[box], 1), _PSF, mode="constant")
    return blurred


def _local_mean(image: np.ndarray, inside: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The mean of the tissue `inside` around each voxel; the voxel itself far from it."""
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in box)
    sigma = _TISSUE_MM / spacing
    weight = ndimage.gaussian_filter(inside[box].astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(inside[box], image[box], 0), sigma)
    mean = image.copy()
    mean[box] = np.where(weight > 0.05, total / np.maximum(weight, 0.05), image[box])
    return mean
