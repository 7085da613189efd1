"""Surface distances against MONAI, loops over all pairs of voxels, and by hand; anisotropic and sheared grids."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from mednext_jax.evaluate.surface import SurfaceDistances

pytestmark = pytest.mark.core

SHEARED = np.array([[0.5, 0.2, 0.0], [0.0, 0.8, 0.1], [0.0, 0.0, 2.0]])


def masks(seed, shape=(14, 13, 12)):
    """Two random masks of blobs and single voxels, that partly overlap."""
    rng = np.random.default_rng(seed)
    first = rng.random(shape) < 0.02
    first[3:7, 3:6, 2:9] = True
    second = np.roll(first, 1, 0) & (rng.random(shape) < 0.9)
    return first, second | (rng.random(shape) < 0.01)


def by_loops(first, second, axes, tolerance):
    """NSD and HD95 over all pairs of surface voxels."""
    points = [np.argwhere(m & ~binary_erosion(m)) @ axes.T for m in (first, second)]
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    sides = apart.min(1), apart.min(0)
    within = sum((side <= tolerance + 1e-9).sum() for side in sides) / sum(map(len, sides))
    return within, max(np.percentile(side, 95) for side in sides)


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([0.5, 0.5, 3.0]), SHEARED], ids=["1 mm", "anisotropic", "sheared"])
def test_distances_are_those_of_all_pairs_in_mm(axes):
    first, second = masks(0)
    scores = SurfaceDistances.of(first, second, axes).scores()
    nsd, hd = by_loops(first, second, axes, 1.0)
    assert 0 < nsd < 1 and scores["nsd_1_mm"] == pytest.approx(nsd, abs=1e-6)
    assert scores["hd95_mm"] == pytest.approx(hd, abs=1e-6)
    assert scores["nsd_1_voxel"] == pytest.approx(by_loops(first, second, np.eye(3), 1.0)[0], abs=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.8, 2.0)])
def test_scores_are_monai_s(spacing):
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    first, second = masks(1)
    pair = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (first, second)]
    scores = SurfaceDistances.of(first, second, np.diag(spacing)).scores()
    hd = metrics.compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    assert scores["hd95_mm"] == pytest.approx(float(hd), abs=1e-6)
    for name, size in (("nsd_1_mm", spacing), ("nsd_1_voxel", (1.0, 1.0, 1.0))):
        nsd = metrics.compute_surface_dice(*pair, [1.0], include_background=True, spacing=size)
        assert scores[name] == pytest.approx(float(nsd), abs=1e-6)


def test_surfaces_between_voxels_give_another_score():
    """What docs/evaluation.md says of DeepMind's surface-distance, whose surfels MONAI has too."""
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    first, second = masks(2)
    pair = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (first, second)]
    surfels = float(metrics.compute_surface_dice(*pair, [1.0], True, spacing=(1.0,) * 3, use_subvoxels=True))
    assert 1e-3 < abs(surfels - SurfaceDistances.of(first, second, np.eye(3)).scores()["nsd_1_mm"]) < 0.1


def test_two_voxels_by_hand():
    first, second = np.zeros((2, 9, 9, 9), bool)
    first[4, 4, 2] = second[4, 4, 5] = True
    scores = SurfaceDistances.of(first, second, np.diag([1, 1, 0.5])).scores()
    assert scores == {"nsd_1_voxel": 0, "nsd_1_mm": 0, "hd95_mm": 1.5}
    scores = SurfaceDistances.of(first, second, np.diag([1, 1, 1 / 3])).scores()  # exactly 1 mm apart
    assert scores["nsd_1_mm"] == 1 and scores["nsd_1_voxel"] == 0


def test_a_region_counts_its_surface_against_the_other_mask_everywhere():
    first, second, region = np.zeros((3, 9, 9, 9), bool)
    first[2, 2, 2:6] = True
    second[2, 3, 2:6] = second[8, 8, 8] = True
    region[:, :3, :] = True  # holds all of the first mask, nothing of the second
    scores = SurfaceDistances.of(first, second, np.eye(3)).scores(region)
    assert scores["nsd_1_voxel"] == 1 and math.isnan(scores["hd95_mm"])
    assert SurfaceDistances.of(first, second, np.eye(3)).scores()["nsd_1_voxel"] == 8 / 9


def test_empty_masks():
    nothing, something = np.zeros((2, 5, 5, 5), bool)
    something[2, 2, 2] = True
    for pair in ((nothing, something), (something, nothing)):
        scores = SurfaceDistances.of(*pair, np.eye(3)).scores()
        assert scores["nsd_1_mm"] == scores["nsd_1_voxel"] == 0 and math.isnan(scores["hd95_mm"])
    assert all(math.isnan(x) for x in SurfaceDistances.of(nothing, nothing, np.eye(3)).scores().values())
