"""One simulated scan: a deformed template brain with perivascular spaces, as a scanner sees it."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from mednext_jax.simulate.acquisition import (
    Site,
    add_rician_noise,
    draw_strengths,
    refuse_unknown_contrast,
    shading_field,
    texture,
    tissue_signal,
    truncate_kspace,
)
from mednext_jax.simulate.confounders import draw_hyperintensities, draw_lacunes, draw_sulci, paint_lesion
from mednext_jax.simulate.deform import Deformation, VoxelGrid, draw_deformation
from mednext_jax.simulate.placement import Placed, PvsDistribution, Room, place_tubes, template_directions
from mednext_jax.simulate.template import Template, load_template
from mednext_jax.simulate.tubes import partial_volume

_PAINT_MM = 0.5  # largest voxel of the grid that is painted before k-space truncation
_MARGIN = 4  # voxels of background around the brain
_HYPERINTENSITY = {"T2w": (0.2, 0.45), "T1w": (0.1, 0.3)}
_LACUNE = (0.7, 1.0)
# Each kind of draw has a random stream of its own: a subject has the same brain and the same PVS in either contrast.
_HEAD, _PVS, _OTHERS, _SCAN = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Subject:
    """One simulated scan, arrays (x, y, z) on `grid` as in a NIfTI file."""

    name: str
    site: Site
    grid: VoxelGrid
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
    refuse_unknown_contrast(contrast)
    template = load_template()
    streams = {k: np.random.default_rng([seed, index, k]) for k in (_HEAD, _PVS, _OTHERS, _SCAN)}
    deformation = draw_deformation(streams[_HEAD], template.brain.shape)
    sulci = draw_sulci(streams[_HEAD], template)
    grid, brain = _field_of_view(template, deformation, site)
    regions = deformation.sample(template.regions, grid, where=brain, order=0)

    room = Room(regions, grid)
    lacunes = draw_lacunes(streams[_OTHERS], room, _LACUNE)
    lesions = draw_hyperintensities(streams[_OTHERS], room, template, deformation, _HYPERINTENSITY[contrast])
    placed = place_tubes(streams[_PVS], pvs or PvsDistribution(), room, template_directions(template, deformation))
    strength = draw_strengths(streams[_SCAN], contrast, len(placed))

    factor = np.ceil(np.array(site.voxel_size) / _PAINT_MM - 1e-6).astype(int)
    fine = grid.refined(factor)
    signal = tissue_signal(template, contrast, site, sulci)
    # Two voxels more than the brain, so that the sinc of k-space truncation does not see its cut edge.
    around = np.kron(ndimage.binary_dilation(brain, iterations=2), np.ones(factor, bool))
    painted = deformation.sample(signal.volume, fine, where=around)
    for lesion in [*lesions, *([lacune] for lacune in lacunes)]:
        paint_lesion(painted, lesion, fine, signal.fluid)
    filled, voxels = _paint_tubes(painted, placed, strength, fine, factor, signal.fluid)

    rng = streams[_SCAN]
    image = truncate_kspace(painted, factor)
    image *= texture(rng, image.shape, 1.2, 0.02)
    image *= shading_field(rng, image.shape, site.shading)
    image = add_rician_noise(rng, image, signal.white / site.snr)
    image = np.where(brain, np.clip(np.rint(image * site.scale), 1, 32767), 0).astype(np.int16)
    return Subject(
        name=f"sub-{index + 1:03d}",
        site=site,
        grid=grid,
        image=image,
        label=(filled > 0.5).astype(np.uint8),
        regions=regions,
        placed=placed,
        strength=strength,
        voxels=voxels,
        hyperintensities=len(lesions),
        lacunes=len(lacunes),
    )


def _field_of_view(template: Template, deformation: Deformation, site: Site) -> tuple[VoxelGrid, np.ndarray]:
    """The acquired grid, cut to a few voxels around the brain, and the brain's mask on it."""
    grid = deformation.box(template.brain, np.array(site.voxel_size), _MARGIN * max(site.voxel_size))
    brain = deformation.sample(template.brain, grid) > 0.5
    extent = ndimage.find_objects(brain.astype(np.uint8))[0]
    box = tuple(slice(s.start - _MARGIN, s.stop + _MARGIN) for s in extent)
    return grid.cropped(box), brain[box]


def _paint_tubes(
    painted: np.ndarray, placed: list[Placed], strength: np.ndarray, fine: VoxelGrid, factor: np.ndarray, fluid: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move the signal `painted` on `fine` towards fluid's inside the tubes.

    Returns the share of each acquired voxel (`factor` fine ones along each axis) that tubes fill, float32 (x, y, z),
    and the number of voxels filled by more than half for each tube.
    """
    shape = tuple(fine.shape // factor)
    filled = np.zeros(shape, np.float32)
    touched = []
    for one, its_strength in zip(placed, strength, strict=True):
        at, share = partial_volume(one.tube, fine)
        cells = tuple(at.T)
        painted[cells] += share * np.float32(its_strength) * (np.float32(fluid) - painted[cells])
        coarse = np.ravel_multi_index(tuple((at // factor).T), shape)
        np.add.at(filled.reshape(-1), coarse, share / np.float32(factor.prod()))
        touched.append(np.unique(coarse))
    voxels = np.array([np.count_nonzero(filled.reshape(-1)[cells] > 0.5) for cells in touched], np.int64)
    return filled, voxels
