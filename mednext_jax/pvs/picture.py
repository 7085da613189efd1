"""One picture of a scan with truth and prediction overlaid, in the slice that holds most PVS."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_file

BOTH, MISSED, EXTRA = "#3ddc84", "#ffb000", "#ff3b6b"
HALF_WIDTH_MM = 32.0


def draw_comparison(scan: Path, truth: Path, prediction: Path, out: Path) -> None:
    """Write a PNG: the axial slice with most true PVS, plain and overlaid, whole and enlarged.

    `scan`, `truth` and `prediction` are NIfTI files on one grid. Green: found; amber: missed; red: not in the truth.
    Raises InputError if matplotlib (the `demo` extra) is not installed or the grids differ.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            "The picture needs matplotlib, which is not installed.", mend="pip install 'mednext-jax[demo]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch, Rectangle

    images = [nib.as_closest_canonical(nib.load(path)) for path in (scan, truth, prediction)]
    if len({image.shape for image in images}) != 1:
        raise InputError("The images are not on one grid.", expected=images[0].shape, found=[i.shape for i in images])
    intensity = np.asarray(images[0].dataobj, np.float32)
    true, predicted = (np.asarray(image.dataobj) > 0 for image in images[1:])
    z = int(np.argmax(true.sum((0, 1)) + predicted.sum((0, 1)) / 1e3))
    voxel = images[0].header.get_zooms()[:2]
    half = [int(HALF_WIDTH_MM / size) for size in voxel]
    centre = [
        int(np.clip(c, h, max(h, n - h)))
        for c, h, n in zip(_densest(true[:, :, z], half), half, true.shape, strict=False)
    ]
    window = tuple(slice(max(0, c - h), c + h) for c, h in zip(centre, half, strict=True))

    inside = intensity[intensity > 0] if (intensity > 0).any() else intensity
    limits = tuple(np.percentile(inside, (1, 99.7)))
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.9), facecolor="black")
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
            names = (("found", BOTH), ("missed", MISSED), ("not in the truth", EXTRA))
            axis.legend(
                handles=[Patch(color=colour, label=name) for name, colour in names],
                loc="lower center", ncol=3, fontsize=8, framealpha=0.6, bbox_to_anchor=(0.5, -0.1),
            )  # fmt: skip
        axis.set_title(title, color="white", fontsize=10)
        axis.axis("off")
    corner = (window[0].start, true.shape[1] - window[1].stop)
    axes[0].add_patch(Rectangle(corner, 2 * half[0], 2 * half[1], fill=False, edgecolor="white", lw=0.8))
    figure.tight_layout()
    with atomic_file(out) as temporary:
        figure.savefig(temporary, dpi=110, facecolor="black", format="png")
    plt.close(figure)


def _turned(array: np.ndarray) -> np.ndarray:
    """An (x, y[, rgba]) slice as rows from anterior to posterior, the subject's left on the picture's left."""
    return np.swapaxes(array, 0, 1)[::-1]


def _densest(mask: np.ndarray, half: list[int]) -> tuple[int, int]:
    """The centre of the window of 2 x half that holds most of a 2D mask."""
    from scipy.ndimage import uniform_filter

    density = uniform_filter(mask.astype(np.float32), [2 * h for h in half], mode="constant")
    x, y = np.unravel_index(np.argmax(density), mask.shape)
    return int(x), int(y)
