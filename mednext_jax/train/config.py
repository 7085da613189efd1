"""The training configuration: every field with its default and source, how a file is read, what is refused."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mednext_jax.errors import InputError, Problem
from mednext_jax.model.config import EXTENT_MULTIPLE, MedNeXtConfig


def default_config() -> ConfigDict:
    """MedNet-PVS's published recipe on nnU-Net's pipeline; only `data` must be set.

    Sources: the authors' code (iBrain-Lab/MedNet-PVS, trainer nnUNetTrainerV2_MedNeXt_L_kernel5_lr_3e_4_500epochs),
    MIC-DKFZ/MedNeXt, nnU-Net v1 (`moreDA`) and v2.
    """
    c = ConfigDict()
    c.data = ""  # the folder that `mednext-jax prepare` wrote
    c.fold = "0"  # index into splits.json, or "all": train and validate on every case (nnU-Net)
    c.seed = 0  # decides initial weights, batches and augmentation

    c.steps = 125_000  # optimiser steps: 500 epochs of 250 (MedNet-PVS)
    c.steps_per_epoch = 250  # nnU-Net
    c.validation_steps = 50  # validation batches after each epoch (nnU-Net)
    c.scan_validation_epochs = 0  # epochs between validations on whole scans during training; 0: none
    c.final_validation = True  # segment and score the fold's validation scans at the end (nnU-Net)
    c.batch_size = 2  # patches in a step, over all devices (nnU-Net's default for 3-D)
    c.accumulate = 1  # parts that a batch is computed in, one after another; gradients are averaged
    c.patch_size = (128, 128, 128)  # voxels (d, h, w); MedNeXt's planner; multiples of 16

    c.foreground_fraction = 0.33  # rows that must contain foreground (nnU-Net)
    c.foreground_rule = "position"  # the last rows of each batch (nnU-Net), or "probabilistic": each row by chance

    c.model = architecture(MedNeXtConfig.variant("L", kernel_size=5, deep_supervision=True))  # MedNet-PVS
    c.init_from = ""  # a model directory whose weights to start from (fine-tuning)
    c.upkern = False  # enlarge its kernels to this network's (UpKern, Roy et al. 2023)

    c.loss = ConfigDict()
    c.loss.dice = 1.0  # weight of the soft Dice term (nnU-Net)
    c.loss.cross_entropy = 1.0  # weight of the cross entropy term (nnU-Net)
    c.loss.focal_tversky = 0.0  # weight of the focal Tversky term (Abraham & Khan 2019)
    c.loss.cldice = 0.0  # weight of the soft clDice term (Shit et al. 2021)
    c.loss.batch_dice = False  # Dice over the batch as one volume; nnU-Net v1: only with a low-resolution stage
    c.loss.deep_supervision = (16.0, 8.0, 4.0, 2.0, 1.0)  # of the five heads, normalised to sum 1 (MedNeXt)

    c.optimiser = ConfigDict()
    c.optimiser.name = "adamw"  # or "sgd" (Nesterov, nnU-Net)
    c.optimiser.learning_rate = 3e-4  # MedNet-PVS; nnU-Net's SGD: 1e-2
    c.optimiser.weight_decay = 3e-5  # nnU-Net
    c.optimiser.epsilon = 1e-4  # of AdamW (MedNeXt: 1e-8 gave NaN in half precision)
    c.optimiser.momentum = 0.99  # of SGD (nnU-Net)
    c.optimiser.clip_norm = 12.0  # global gradient norm (nnU-Net)
    c.optimiser.schedule = "poly"  # by epoch (nnU-Net), or "cosine" by step, or "constant"
    c.optimiser.power = 0.9  # of the poly schedule (nnU-Net)
    c.optimiser.warmup_steps = 0  # linear from 0 before the schedule
    c.optimiser.ema = 0.0  # decay of an exponential moving average of the weights, which is then exported; 0: none

    # Probabilities, ranges and order of nnU-Net's default augmentation, drawn per sample.
    c.augment = ConfigDict()
    # nnU-Net v2's "DA", or v1's "moreDA" with the same probabilities and ranges: scales below and above 1 equally
    # often, brightness uniform, one blur for all axes. (v1 also interpolates with order 3; here it is linear.)
    c.augment.policy = "DA"
    c.augment.rotation = 0.2  # probability
    c.augment.rotation_degrees = 30.0  # each axis uniform in +-
    c.augment.scaling = 0.2
    c.augment.scaling_range = (0.7, 1.4)  # one factor for all axes; larger = smaller objects
    c.augment.noise = 0.1
    c.augment.noise_range = (0.0, 0.1)  # standard deviation
    c.augment.blur = 0.2
    c.augment.blur_range = (0.5, 1.0)  # sigma in voxels, each axis its own
    c.augment.blur_per_channel = 0.5
    c.augment.brightness = 0.15
    c.augment.brightness_range = (0.75, 1.25)  # factor
    c.augment.contrast = 0.15
    c.augment.contrast_range = (0.75, 1.25)  # factor, clipped to the patch's own range
    c.augment.low_resolution = 0.25
    c.augment.low_resolution_range = (0.5, 1.0)  # of the resolution
    c.augment.low_resolution_per_channel = 0.5
    c.augment.inverted_gamma = 0.1
    c.augment.gamma = 0.3
    c.augment.gamma_range = (0.7, 1.5)  # exponent; mean and standard deviation are kept
    c.augment.mirror_axes = (0, 1, 2)  # each flipped with probability 0.5; also the axes of test-time mirroring

    c.mesh = ConfigDict()
    c.mesh.data = -1  # devices that share the samples of a batch; -1: all that the other two leave
    c.mesh.space = 1  # devices that share the depth of one patch
    c.mesh.height = 1  # devices that share its height, besides
    c.mesh.share_state = False  # split weights and optimiser state over `data` too, instead of a copy on each device
    c.profile = (0, 0)  # write a JAX trace of the steps from the first to before the second number; (0, 0): none
    c.threads = 4  # host threads that read and crop

    c.checkpoint = ConfigDict()
    c.checkpoint.minutes = 15.0  # a checkpoint at least this often
    c.checkpoint.steps = 0  # and every so many steps; 0: only by the clock and at the end
    c.checkpoint.keep = 2  # the latest that are kept, besides the one with the best validation Dice
    return c


def architecture(model: MedNeXtConfig) -> ConfigDict:
    """The fields of a network that a recipe sets; input channels and classes follow from the data set."""
    values = model.to_dict()
    del values["in_channels"], values["num_classes"]
    return ConfigDict({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def small_objects(config: ConfigDict) -> ConfigDict:
    """Switch augmentation to what leaves structures of 1 to 3 voxels visible; changes and returns `config`.

    nnU-Net's blur leaves a sixth of a line one voxel wide, its loss of resolution (nearest neighbour) and its
    shrinking by 1.4 drop such lines altogether, while their label stays.
    """
    config.augment.blur_range = (0.3, 0.5)
    config.augment.low_resolution = 0.0
    config.augment.scaling_range = (0.7, 1.1)
    return config


def load_config(source: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Read `FILE.py` or `FILE.py:ARGUMENT` (its `get_config`) and apply `--config.field=value` overrides.

    Raises InputError for a missing or failing file, an unknown field (with the nearest name) or a value of the
    wrong type.
    """
    file, _, argument = source.partition(":")
    if not Path(file).is_file():
        raise InputError("The configuration file does not exist.", file=file, hint="configs/ holds the recipes")
    try:
        get_config = runpy.run_path(file)["get_config"]
        config = get_config(argument) if argument else get_config()
    except InputError:
        raise
    except Exception as error:  # whatever the user's file raises
        what = "has no get_config()" if isinstance(error, KeyError) else "fails"
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"The configuration file {what}.", file=file, found=found) from error
    if not isinstance(config, ConfigDict):
        found = type(config).__name__
        raise InputError("get_config() does not return a ConfigDict.", file=file, found=found)
    config.lock()
    for override in overrides:
        _override(config, override)
    return config


def _override(config: ConfigDict, override: str) -> None:
    match = re.fullmatch(r"--config\.([\w.]+)=(.*)", override, re.DOTALL)
    if match is None:
        raise InputError("unknown argument", expected="--config.field=value", found=override)
    *parents, field = match[1].split(".")
    node = config
    for parent in parents:
        node = _field(node, parent, override)
        if not isinstance(node, ConfigDict):
            raise InputError(f"config.{parent} has no fields.", found=override)
    present = _field(node, field, override)
    expected = "a group of fields" if isinstance(present, ConfigDict) else type(present).__name__
    try:
        setattr(node, field, _parse(match[2], present))
    except (TypeError, ValueError, SyntaxError) as error:
        raise InputError(
            f"config.{match[1]} has the wrong type.", expected=f"{expected}, like {present!r}", found=match[2]
        ) from error


def _field(node: ConfigDict, name: str, override: str) -> Any:
    if name in node:
        return node[name]
    near = difflib.get_close_matches(name, node.keys(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(node.keys())}"
    raise InputError(f"unknown configuration field {name!r}", found=override, hint=hint)


def _parse(text: str, present: Any) -> Any:
    """`text` as a value of `present`'s type; a tuple as (1, 2, 3) or 1,2,3."""
    if isinstance(present, str):
        return text
    if isinstance(present, bool):
        return {"true": True, "false": False}.get(text.lower(), text)  # anything else: refused by its type
    value = ast.literal_eval(text)
    if isinstance(value, bool):
        raise TypeError(text)
    if isinstance(present, tuple):
        value = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(item, int | float) for item in value):
            raise TypeError(text)
        integers = bool(present) and all(isinstance(item, int) for item in present)
        if integers and not all(isinstance(item, int) for item in value):
            raise TypeError(text)
    return value


def check_config(config: ConfigDict) -> None:
    """Raise one InputError that names every field whose value is out of range."""
    problems: list[Problem] = []

    def check(field: str, holds: Callable[[Any], bool], expected: str) -> None:
        value: Any = config
        for name in field.split("."):
            value = value[name]
        try:
            right = holds(value)
        except TypeError:
            right = False
        if not right:
            problems.append(Problem(f"config.{field} is not valid.", expected=expected, found=repr(value)[:200]))

    def probability(field: str) -> None:
        check(field, lambda v: 0 <= v <= 1, "a number from 0 to 1")

    def positive_integer(field: str, lowest: int = 1) -> None:
        check(field, lambda v: isinstance(v, int) and v >= lowest, f"an integer of at least {lowest}")

    def finite(field: str, above: float = -math.inf) -> None:
        check(field, lambda v: math.isfinite(v) and v >= above, f"a finite number of at least {above}")

    def span(field: str, lowest: float, highest: float) -> None:
        check(
            field,
            lambda v: len(v) == 2 and lowest <= v[0] <= v[1] <= highest,
            f"two numbers, the first not larger, from {lowest} to {highest}",
        )

    check("data", bool, "the folder that `mednext-jax prepare` wrote (--config.data=FOLDER)")
    check("fold", lambda v: v == "all" or v.isdigit(), "the index of a fold, or 'all'")
    for field in ("steps", "steps_per_epoch", "batch_size", "accumulate", "threads", "checkpoint.keep"):
        positive_integer(field)
    for field in ("seed", "validation_steps", "scan_validation_epochs", "optimiser.warmup_steps", "checkpoint.steps"):
        positive_integer(field, lowest=0)
    check("seed", lambda v: v < 2**31, "below 2^31")
    check("threads", lambda v: v <= 1024, "at most 1024")
    check(
        "patch_size",
        lambda v: len(v) == 3 and all(0 < i <= 4096 and i % EXTENT_MULTIPLE == 0 for i in v),
        f"three multiples of {EXTENT_MULTIPLE} (d, h, w) up to 4096",
    )
    probability("foreground_fraction")
    check("foreground_rule", lambda v: v in ("position", "probabilistic"), "'position' or 'probabilistic'")
    terms = ("dice", "cross_entropy", "focal_tversky", "cldice")
    for term in terms:
        finite(f"loss.{term}", 0)
    check("loss", lambda v: any(v[t] > 0 for t in terms), "a term with a weight above 0")
    check(
        "loss.deep_supervision",
        lambda v: len(v) == 5 and all(0 <= w < math.inf for w in v) and v[0] > 0,
        "five weights of at least 0, the first (full resolution) above 0",
    )
    check("optimiser.name", lambda v: v in ("adamw", "sgd"), "'adamw' or 'sgd'")
    check("optimiser.schedule", lambda v: v in ("poly", "cosine", "constant"), "'poly', 'cosine' or 'constant'")
    for field in ("learning_rate", "epsilon", "clip_norm"):
        check(f"optimiser.{field}", lambda v: 0 < v < math.inf, "a finite number above 0")
    finite("optimiser.weight_decay", 0)
    finite("optimiser.power", 0)
    for field in ("momentum", "ema"):
        check(f"optimiser.{field}", lambda v: 0 <= v < 1, "a number from 0 to below 1")
    check("accumulate", lambda v: config.batch_size % v == 0, "a divisor of config.batch_size")
    for field in AUGMENT_PROBABILITIES:
        probability(f"augment.{field}")
    check("augment.policy", lambda v: v in ("DA", "moreDA"), "'DA' or 'moreDA'")
    check("augment.rotation_degrees", lambda v: 0 <= v <= 90, "degrees from 0 to 90")
    span("augment.scaling_range", 0.1, 10)
    span("augment.noise_range", 0, 10)
    span("augment.blur_range", 0.05, 1.2)  # the kernel has 7 taps
    span("augment.brightness_range", 0.01, 100)
    span("augment.contrast_range", 0.01, 100)
    span("augment.low_resolution_range", 0.05, 1)
    span("augment.gamma_range", 0.01, 100)
    check(
        "augment.mirror_axes",
        lambda v: len(set(v)) == len(v) and all(axis in (0, 1, 2) for axis in v),
        "different axes among 0, 1, 2",
    )
    check("profile", lambda v: len(v) == 2 and 0 <= v[0] <= v[1], "two step numbers, the second not smaller")
    check("mesh.data", lambda v: v == -1 or v >= 1, "-1 or a number of devices")
    check("mesh.share_state", lambda v: isinstance(v, bool), "True or False")
    for field in ("mesh.space", "mesh.height"):
        positive_integer(field)
    check("checkpoint.minutes", lambda v: v > 0, "minutes above 0")
    try:
        MedNeXtConfig.from_dict(dict(config.model))
    except InputError as error:
        problems += [
            dataclasses.replace(p, what=p.what.replace("MedNeXtConfig.", "config.model.")) for p in error.problems
        ]
    if problems:
        raise InputError.of(problems)


AUGMENT_PROBABILITIES = (
    *("rotation", "scaling", "noise", "blur", "blur_per_channel", "brightness", "contrast"),
    *("low_resolution", "low_resolution_per_channel", "inverted_gamma", "gamma"),
)
