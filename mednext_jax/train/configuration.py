"""The configuration of a training, typed: its own fields, and the groups that stand beside the code that reads each.

Recipes and the command line see it as a ConfigDict, made from it (`default_config`) and read back (`TrainConfig.of`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mednext_jax.data.augment import AugmentConfig
from mednext_jax.errors import InputError
from mednext_jax.model.config import EXTENT_MULTIPLE, MedNeXtConfig
from mednext_jax.parallel.mesh import MeshConfig
from mednext_jax.settings import PROBABILITY, SWITCH, TEXT, Range, integer, one_of, read_group, setting
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.train.checkpoint import CheckpointConfig
from mednext_jax.train.loss import LossConfig
from mednext_jax.train.optimiser import OptimiserConfig

# What the data set decides about a network, and a recipe does not.
OF_THE_DATA = ("in_channels", "num_classes")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """MedNet-PVS's published recipe on nnU-Net's pipeline; only `data` must be set.

    Sources: the authors' code (iBrain-Lab/MedNet-PVS, trainer nnUNetTrainerV2_MedNeXt_L_kernel5_lr_3e_4_500epochs),
    MIC-DKFZ/MedNeXt, nnU-Net v1 (`moreDA`) and v2.
    """

    data: str = setting(
        "", TEXT, "the folder or address that `mednext-jax prepare` wrote; empty only with `generator.enabled`"
    )
    fold: str = setting(
        "0",
        Range("the index of a fold, or 'all'", lambda v: v == "all" or v.isdigit()),
        "index into the data set's splits; all: train and validate on every case (nnU-Net)",
    )
    seed: int = setting(0, integer(0, 2**31 - 1), "decides initial weights, batches and augmentation")
    steps: int = setting(125_000, integer(1), "optimiser steps: 500 epochs of 250 (MedNet-PVS)")
    steps_per_epoch: int = setting(250, integer(1), "after which a row of metrics follows (nnU-Net)")
    validation_steps: int = setting(50, integer(0), "validation batches after each epoch (nnU-Net)")
    scan_validation_epochs: int = setting(
        0, integer(0), "epochs between validations on whole scans during training; 0: none"
    )
    final_validation: bool = setting(
        True, SWITCH, "segment and score the fold's validation scans at the end (nnU-Net); `--cv` needs it"
    )
    batch_size: int = setting(2, integer(1), "patches in a step, over all devices (nnU-Net's default for 3-D)")
    accumulate: int = setting(
        1, integer(1), "parts that a batch is computed in, one after another: a divisor of `batch_size`"
    )
    patch_size: tuple[int, int, int] = setting(
        (128, 128, 128),
        Range(
            f"three multiples of {EXTENT_MULTIPLE} (d, h, w) up to 4096",
            lambda v: len(v) == 3 and all(type(i) is int and 0 < i <= 4096 and i % EXTENT_MULTIPLE == 0 for i in v),
        ),
        "voxels (d, h, w) (MedNeXt's isotropic planner)",
    )
    foreground_fraction: float = setting(0.33, PROBABILITY, "rows that must contain foreground (nnU-Net)")
    foreground_rule: str = setting(
        "position",
        one_of("position", "probabilistic"),
        "which rows: the last of each batch (nnU-Net), or each by chance",
    )
    model: MedNeXtConfig = MedNeXtConfig.variant("L", kernel_size=5, deep_supervision=True)
    init_from: str = setting(
        "", TEXT, "a model directory whose weights to start from (fine-tuning), or `without_labels`: the packaged model"
    )
    upkern: bool = setting(
        False, SWITCH, "enlarge the kernels of `init_from` to this network's (UpKern, Roy et al. 2023)"
    )
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()
    mesh: MeshConfig = MeshConfig()
    profile: tuple[int, int] = setting(
        (0, 0),
        Range("two step numbers, the second not smaller", lambda v: len(v) == 2 and 0 <= v[0] <= v[1]),
        "write a JAX trace of the steps from the first to before the second number; (0, 0): none",
    )
    threads: int = setting(4, integer(1, 1024), "host threads that read and crop")
    checkpoint: CheckpointConfig = CheckpointConfig()
    generator: GeneratorConfig = GeneratorConfig()

    def problems_between(self) -> dict[str, str]:
        """Ranges that several fields break together, by field."""
        broken = {}
        if not self.data and not self.generator.enabled:
            broken["data"] = "the folder that `mednext-jax prepare` wrote (--config.data=FOLDER)"
        if self.data and self.generator.enabled:
            broken["data"] = "nothing with config.generator.enabled, which simulates its own scans"
        if self.batch_size % self.accumulate:
            broken["accumulate"] = "a divisor of config.batch_size"
        return broken

    @classmethod
    def of(cls, config: TrainConfig | ConfigDict | Mapping[str, Any]) -> TrainConfig:
        """Read a ConfigDict or the JSON values of a run; absent fields have their default.

        Raises one InputError that names every field that is unknown or whose value is out of range.
        """
        values = config.plain() if isinstance(config, TrainConfig) else config
        values = values.to_dict() if isinstance(values, ConfigDict) else values
        read, problems = read_group(cls(), values, "config", {MedNeXtConfig: _read_model})
        if problems:
            raise InputError.of(problems)
        return read

    def plain(self) -> dict[str, Any]:
        """Every field as JSON values, as they come back from a file; `of` reads them."""
        values = dataclasses.asdict(self)
        for name in OF_THE_DATA:
            del values["model"][name]
        return json.loads(json.dumps(values))


def _read_model(values: Any, name: str) -> MedNeXtConfig:
    if not isinstance(values, Mapping):
        raise InputError(f"{name} is not valid.", expected="a group of fields", found=repr(values)[:200])
    try:
        return MedNeXtConfig.from_dict(dict(values))
    except InputError as error:
        raise InputError.of(
            dataclasses.replace(p, what=p.what.replace("MedNeXtConfig", name)) for p in error.problems
        ) from None


def default_config() -> ConfigDict:
    """Every field with its default, for a recipe to change."""
    return changeable(TrainConfig())


def changeable(config: TrainConfig) -> ConfigDict:
    """The fields of a configuration as a ConfigDict."""
    return ConfigDict({**dataclasses.asdict(config), "model": architecture(config.model)})


def architecture(model: MedNeXtConfig) -> ConfigDict:
    """The fields of a network that a recipe sets; input channels and classes follow from the data set."""
    values = dataclasses.asdict(model)
    return ConfigDict({name: value for name, value in values.items() if name not in OF_THE_DATA})


def small_objects(config: ConfigDict) -> ConfigDict:
    """Switch augmentation to what leaves structures of 1 to 3 voxels visible; changes and returns `config`.

    nnU-Net's blur leaves a sixth of a line one voxel wide, its loss of resolution (nearest neighbour) and its
    shrinking by 1.4 drop such lines altogether, while their label stays.
    """
    config.augment.blur_range = (0.3, 0.5)
    config.augment.low_resolution = 0.0
    config.augment.scaling_range = (0.7, 1.1)
    return config
