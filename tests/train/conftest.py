"""A tiny prepared data set, written as `prepare` does."""

import dataclasses

import numpy as np
import pytest

from mednext_jax.data.case_store import ANNOTATED, CaseWriter
from mednext_jax.data.prepared import PreparedMeta
from mednext_jax.preprocess.trip import Properties


def write_prepared(path, *, cases=4, shape=(40, 36, 44), poison=None, **described):
    """Noise with bright 3-voxel-wide bars, which are the label. `poison`: a case whose image holds a NaN voxel.

    `described`: other fields of the description. With regions the middle of each bar is labelled 2, with an ignore
    label the first planes have it.
    """
    rng = np.random.default_rng(0)
    margin = 2  # of zeros around the stored box in the scan, whose axes are (x, y, z) and point right, front, up
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    properties = Properties(
        shape=tuple(n + 2 * margin for n in shape),
        box_start=(margin,) * 3,
        box_shape=tuple(shape),
        spacing=(1.0, 1.0, 1.0),
        resampled_shape=tuple(shape),
        resampled_spacing=(1.0, 1.0, 1.0),
    )
    writer, ids = CaseWriter(path), [f"case_{i}" for i in range(cases)]
    for case in ids:
        label = np.zeros(shape, np.int16)
        for _ in range(6):
            z, y, x = (int(rng.integers(0, n - 13)) for n in shape)
            label[z : z + 12, y : y + 3, x : x + 3] = 1
        image = rng.normal(size=shape).astype(np.float32) + 3 * label
        voxels = {1: np.argwhere(label == 1)}
        if "regions_class_order" in described:
            middle = label.astype(bool) & np.roll(label, 1, 1).astype(bool) & np.roll(label, -1, 1).astype(bool)
            label[middle] = 2
            voxels[2] = np.argwhere(middle)
        if "ignore_label" in described:
            label[:3] = described["ignore_label"]
            voxels = {k: v[v[:, 0] >= 3] for k, v in voxels.items()} | {
                ANNOTATED: np.argwhere(label[3:] >= 0) + [3, 0, 0]
            }
        if case == poison:
            image[:] = np.nan
        record = {
            "key": case,
            "properties": properties.to_dict(),
            "stored_shape": [n + 2 * margin for n in shape[::-1]],
            "affine": affine.tolist(),
        }
        sides = np.where(np.arange(shape[2]) < shape[2] // 2, 1, 2) * np.ones(shape, int)
        writer.write_case(case, image[..., None], label, voxels, record, sides)
    meta = PreparedMeta(
        name="bars",
        channel_names=("T2w",),
        labels={"background": 0, "PVS": 1},
        ignore_label=None,
        regions_class_order=None,
        spacing=(1.0, 1.0, 1.0),
        normalisation=("zscore",),
        use_mask_for_norm=False,
        intensity_properties=None,
        cases=tuple(ids),
        subjects={case: case for case in ids},
        sources={},
        settings={"splits": "kfold:2"},
        versions={},
        regions={"left": 1, "right": 2},
    )
    meta = dataclasses.replace(meta, **described)
    writer.finish(meta, [{"train": ids[1:], "val": ids[:1]}, {"train": ids[:-1], "val": ids[-1:]}])
    return path


@pytest.fixture(scope="session")
def write_data():
    return write_prepared


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture(scope="session")
def tiny(prepared):
    """A configuration that compiles and steps in seconds."""
    from mednext_jax.model.config import MedNeXtConfig
    from mednext_jax.train.configuration import architecture, default_config
    from tests.augment_probabilities import AUGMENT_PROBABILITIES

    config = default_config()
    config.data = str(prepared)
    network = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9, deep_supervision=True)
    config.model = architecture(network)
    config.steps, config.steps_per_epoch, config.validation_steps = 6, 3, 2
    config.patch_size = (32, 32, 32)
    for name in AUGMENT_PROBABILITIES:
        config.augment[name] = 0.0
    config.augment.mirror_axes = (2,)
    config.optimiser.learning_rate = 3e-3
    return config
