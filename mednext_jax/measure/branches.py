"""Clusters in which several tubes touch, cut where their skeleton branches."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from mednext_jax.errors import InputError
from mednext_jax.measure.clusters import ClusterVoxels

_FULL = np.ones((3, 3, 3), bool)
# Two branches that meet at a flatter angle than this go on as one tube.
_STRAIGHT_ON = np.cos(np.radians(135))
_FEWEST_VOXELS = 8  # a smaller cluster has no two tubes to tell apart


def split_clusters(voxels: ClusterVoxels) -> ClusterVoxels:
    """Clusters cut where their skeleton branches (Lee et al. 1994, scikit-image).

    Of the branches that meet, those that go straight on stay one tube: two tubes that cross become two, a T becomes a
    tube and a side branch. A branch that is shorter than the tube is thick is none. The parts are numbered anew.
    Raises InputError if scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise InputError(
            "Clusters are split along skeletons of the package scikit-image, which is not installed.",
            expected="scikit-image",
            hint="pip install 'mednext-jax[quantify]'",
        )
    owner = np.zeros(len(voxels.index), np.int64)
    parts = 0
    for first, last in itertools.pairwise(voxels.starts):
        found = _parts(voxels.index[first:last], voxels.affine[:3, :3])
        owner[first:last] = parts + found
        parts += int(found.max(initial=-1)) + 1
    order = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=parts))])
    return ClusterVoxels(voxels.index[order], owner[order], starts, voxels.affine, voxels.shape)


def _parts(index: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The part (n,), from 0, of each voxel (n, 3) of one cluster."""
    whole = np.zeros(len(index), np.int64)
    if len(index) < _FEWEST_VOXELS:
        return whole
    from skimage.morphology import skeletonize

    low = index.min(0) - 1
    mask = np.zeros(index.max(0) - low + 2, bool)
    mask[tuple((index - low).T)] = True
    skeleton = skeletonize(mask)
    # A junction: more than two neighbours on the skeleton. Its voxels, a clump, are taken out and leave branches.
    junctions = skeleton & (ndimage.convolve(skeleton.astype(np.uint8), _FULL.astype(np.uint8), mode="constant") > 3)
    if not junctions.any():
        return whole
    branches, count = ndimage.label(skeleton & ~junctions, _FULL)
    clumps, clump_count = ndimage.label(junctions, _FULL)
    depth = ndimage.distance_transform_edt(mask, sampling=np.linalg.norm(matrix, axis=0))
    lines = [np.argwhere(branches == i) @ matrix.T for i in range(1, count + 1)]
    joined = list(range(count))
    spurs = set(range(count))
    for clump in range(1, clump_count + 1):
        near = ndimage.binary_dilation(clumps == clump, _FULL)
        middle = np.argwhere(clumps == clump).mean(0) @ matrix.T
        radius = depth[clumps == clump].max()
        meeting = [int(i) - 1 for i in np.unique(branches[near]) if i]
        ways = {}
        for i in meeting:
            away = lines[i] - middle
            reach = np.linalg.norm(away, axis=1)
            if reach.max() > 2 * radius:
                ways[i] = away[reach.argmax()] / reach.max()
                spurs.discard(i)
        pairs = sorted((float(ways[i] @ ways[j]), i, j) for i, j in itertools.combinations(ways, 2))
        taken: set[int] = set()
        for cosine, i, j in pairs:
            if cosine < _STRAIGHT_ON and not {i, j} & taken:
                taken |= {i, j}
                one, other = joined[i], joined[j]
                joined = [one if tube == other else tube for tube in joined]
    tubes = sorted({joined[i] for i in range(count) if i not in spurs})
    if len(tubes) < 2:
        return whole
    kept = [i for i in range(count) if i not in spurs]
    points = np.concatenate([lines[i] for i in kept])
    tube = np.concatenate([np.full(len(lines[i]), tubes.index(joined[i])) for i in kept])
    nearest = cKDTree(points).query((index - low) @ matrix.T)[1]
    return np.unique(tube[nearest], return_inverse=True)[1]
