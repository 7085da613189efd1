"""One picture of a scan with truth and prediction overlaid, in the slice that holds most PVS."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import uniform_filter

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_file
from mednext_jax.io.nifti import read_labels, read_scan
from mednext_jax.measure.clusters import label_clusters

BOTH, MISSED, EXTRA = "#3ddc84", "#ffb000", "#ff3b6b"
HALF_WIDTH_MM = 32.0


def draw_comparison(scan: Path, truth: Path, prediction: Path, out: Path) -> None:
    """Write a PNG: the axial slice with most PVS, plain and overlaid, whole and enlarged.

    `scan`, `truth` and `prediction` are NIfTI files on one grid. Green: found; amber: missed; red: not in the truth.
    Raises InputError if matplotlib (the `demo` extra) is not installed or the grids differ.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            "The picture needs matplotlib, which is not installed.", hint="pip install 'mednext-jax[demo]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch, Rectangle

    images = [
        nib.as_closest_canonical(image) for image in (read_scan(scan), read_labels(truth), read_labels(prediction))
    ]
    if len({image.shape for image in images}) != 1:
        raise InputError("The images are not on one grid.", expected=images[0].shape, found=[i.shape for i in images])
    intensity = np.asarray(images[0].dataobj, np.float32)
    true, predicted = (np.asarray(image.dataobj) > 0 for image in images[1:])
    z, counts = _fullest_slice(true | predicted)
    half = [int(HALF_WIDTH_MM / size) for size in images[0].header.get_zooms()[:2]]
    window = _fullest_window(counts, half)

    inside = intensity[intensity > 0] if (intensity > 0).any() else intensity
    limits = tuple(np.percentile(inside, (1, 97)))  # the darker tissue that PVS lie in, not the ventricles
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 5.2), facecolor="black")
    panels = (
        (axes[0], (slice(None), slice(None)), False, f"{scan.name}, slice {z}"),
        (axes[1], window, False, "enlarged"),
        (axes[2], window, True, "truth and prediction"),
    )
    for axis, part, overlaid, title in panels:
        axis.imshow(_turned(intensity[:, :, z][part]), cmap="gray", vmin=limits[0], vmax=limits[1])
        if overlaid:
            t, p = true[:, :, z][part], predicted[:, :, z][part]
            for mask, colour in ((t & p, BOTH), (t & ~p, MISSED), (p & ~t, EXTRA)):
                layer = np.zeros((*mask.shape, 4))
                layer[mask] = (*matplotlib.colors.to_rgb(colour), 0.85)
                axis.imshow(_turned(layer), interpolation="nearest")
        axis.set_title(title, color="white", fontsize=10)
        axis.axis("off")
    corner = (window[0].start - 0.5, true.shape[1] - window[1].stop - 0.5)
    widths = [part.stop - part.start for part in window]
    axes[0].add_patch(Rectangle(corner, *widths, fill=False, edgecolor="white", lw=0.8))
    names = (("found", BOTH), ("missed", MISSED), ("not in the truth", EXTRA))
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in names],
        loc="lower right",
        ncol=3,
        fontsize=9,
        facecolor="black",
        edgecolor="black",
        labelcolor="white",
    )
    figure.tight_layout(rect=(0, 0.05, 1, 0.96))
    with atomic_file(out) as temporary:
        figure.savefig(temporary, dpi=110, facecolor="black", format="png")
    plt.close(figure)


def _turned(array: np.ndarray) -> np.ndarray:
    """An (x, y[, rgba]) slice as rows from anterior to posterior, the subject's left on the picture's left."""
    return np.swapaxes(array, 0, 1)[::-1]


def _fullest_slice(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """The z with most clusters, and there, a map that holds each cluster's one as its voxels' sum."""
    labels, _ = label_clusters(mask)
    z = max(range(mask.shape[2]), key=lambda k: len(np.unique(labels[:, :, k])))
    _, cluster, sizes = np.unique(labels[:, :, z], return_inverse=True, return_counts=True)
    return z, np.where(mask[:, :, z], 1 / sizes[cluster].reshape(mask.shape[:2]), 0)


def _fullest_window(counts: np.ndarray, half: list[int]) -> tuple[slice, slice]:
    """The window of 2 x half that holds most of a slice's clusters."""
    density = uniform_filter(counts, [2 * h for h in half], mode="constant")
    peak = np.unravel_index(np.argmax(density), counts.shape)
    starts = [max(0, min(int(c) - h, n - 2 * h)) for c, h, n in zip(peak, half, counts.shape, strict=True)]
    stops = [min(start + 2 * h, n) for start, h, n in zip(starts, half, counts.shape, strict=True)]
    return slice(starts[0], stops[0]), slice(starts[1], stops[1])
