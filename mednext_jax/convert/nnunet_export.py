"""nnU-Net model folders: checkpoints with the companion files that the tools' own predict commands need.

v1 (the MIC-DKFZ fork, `mednextv1_predict`)     plans.pkl, fold_K/model_final_checkpoint.model and .model.pkl
v2 (`nnUNetv2_predict_from_modelfolder`)        plans.json, dataset.json, fold_K/checkpoint_final.pth, trainer/
The .pkl files are a part of v1's format; they hold plain data and NumPy arrays.
"""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mednext_jax.convert.sources import WeightSource
from mednext_jax.convert.writers import torch_save, torch_state
from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.model.config import LEVELS, MedNeXtConfig
from mednext_jax.preprocess.normalise import SCHEMES
from mednext_jax.weights.recipe import Recipe

_TRAINER_V2 = "nnUNetTrainerMedNeXt"
_CLASS = "nnunet_mednext.network_architecture.mednextv1.MedNextV1.MedNeXt"


def write_v1(target: str | os.PathLike, folds: Mapping[str, WeightSource]) -> list[str]:
    """Write a model folder of nnU-Net v1's MedNeXt fork; returns what the user should know.

    Raises InputError if the fork has no trainer for the network or its format cannot express the recipe.
    """
    notes = _check_recipes(folds)
    if next(iter(folds.values())).recipe.regions_class_order is not None:
        raise InputError(
            "nnU-Net v1's MedNeXt fork has no trainer of overlapping regions.",
            hint="write it with --to nnunet-v2, or the weights alone with --to mic",
        )
    save = torch_save()
    with atomic_directory(target) as folder:
        for number, source in enumerate(folds.values()):
            trainer = _trainer_v1(source.config)
            plans = _plans_v1(source.config, source.recipe)
            state = torch_state(source.config, source.params, "mic")
            if not source.config.deep_supervision:
                _add_heads(state, source.config)
                notes.append("the trainer builds five heads: the four missing ones are written as zeros (unused)")
            if source.recipe.orientation:
                notes.append("nnU-Net v1 does not reorient: give it scans stored in RAS order")
            if tuple(source.recipe.mirror_axes) != (0, 1, 2):
                notes.append("nnU-Net v1 mirrors all three axes unless told --disable_tta; this model does not")
            fold = folder / f"fold_{number}"
            fold.mkdir()
            checkpoint = {
                "epoch": 0,
                "state_dict": state,
                "optimizer_state_dict": None,
                "lr_scheduler_state_dict": None,
                "plot_stuff": ([], [], [], []),
                "best_stuff": (None, None, None),
            }
            save(checkpoint, fold / "model_final_checkpoint.model")
            # plans file, fold, output, data, batch dice, stage, unpack, deterministic, fp16
            init = ("plans.pkl", number, fold.name, "", False, 0, True, False, True)
            info = OrderedDict(init=init, name=trainer, plans=plans)
            info["class"] = f"<class 'nnunet_mednext.training.network_training.MedNeXt.{trainer}'>"
            _pickle(info, fold / "model_final_checkpoint.model.pkl")
            _pickle(plans, folder / "plans.pkl")
    notes.append(f"put the folder at nnUNet/3d_fullres/TaskXXX_NAME/{trainer}__PLANS of the fork's results")
    return list(dict.fromkeys(notes))


def write_v2(target: str | os.PathLike, folds: Mapping[str, WeightSource]) -> list[str]:
    """Write an nnU-Net v2 model folder (its own MedNeXt trainer included); returns what the user should know.

    Raises InputError if MIC-DKFZ's class cannot hold the network or nnU-Net cannot express the recipe.
    """
    save = torch_save()
    first = next(iter(folds.values()))
    plans, dataset = _plans_v2(first.config, first.recipe), _dataset_v2(first.recipe)
    notes = _check_recipes(folds)
    with atomic_directory(target) as folder:
        (folder / "plans.json").write_text(json.dumps(plans, indent=4) + "\n")
        (folder / "dataset.json").write_text(json.dumps(dataset, indent=4) + "\n")
        (folder / "trainer").mkdir()
        (folder / "trainer" / f"{_TRAINER_V2}.py").write_text(_TRAINER_SOURCE)
        for number, source in enumerate(folds.values()):
            state = torch_state(source.config, source.params, "mic")
            if source.config.deep_supervision:
                # nnU-Net v2 predicts with a network built without them, and loads strictly
                state = OrderedDict((k, x) for k, x in state.items() if not k.startswith(tuple(_EXTRA_HEADS)))
                notes.append("the heads out_1 .. out_4 are left out: nnUNetv2_predict builds the network without them")
            fold = folder / f"fold_{number}"
            fold.mkdir()
            init = {"plans": plans, "configuration": "3d_fullres", "fold": number, "dataset_json": dataset}
            checkpoint = {
                "network_weights": state,
                "optimizer_state": None,
                "grad_scaler_state": None,
                "logging": {},
                "_best_ema": None,
                "current_epoch": 0,
                "init_args": init,
                "trainer_name": _TRAINER_V2,
                "inference_allowed_mirroring_axes": tuple(first.recipe.mirror_axes),
            }
            save(checkpoint, fold / "checkpoint_final.pth")
    if first.recipe.average == "softmax" and first.recipe.regions_class_order is None:
        notes.append("this model averaged softmax; nnU-Net v2 averages logits, so probabilities differ slightly")
    notes.append(
        f"before nnUNetv2_predict_from_modelfolder: export nnUNet_extTrainer={Path(target).absolute() / 'trainer'} and "
        "install the class with: pip install git+https://github.com/MIC-DKFZ/MedNeXt"
    )
    return list(dict.fromkeys(notes))


def _check_recipes(folds: Mapping[str, WeightSource]) -> list[str]:
    """What nnU-Net does not do by itself, and what a recipe does not hold."""
    recipe = next(iter(folds.values())).recipe
    notes = []
    regions = recipe.regions_class_order
    if regions is not None:
        notes.append(
            f"the label values that make up each region are not known: dataset.json says {_labels_v2(recipe)}; "
            "nnUNetv2_predict needs only their number and order, for nnUNetv2_evaluate_folder and training correct them"
        )
    if recipe.optional_steps:
        notes.append(
            f"nnU-Net does not repeat the training scans' {', '.join(recipe.optional_steps)}: do it before predicting"
        )
    if not recipe.crop_to_nonzero:
        notes.append("nnU-Net crops to what is not zero, this model did not: z-scores of empty borders differ")
    if recipe.threshold != 0.5 or recipe.thresholds:
        rule = "the largest probability" if regions is None else "a region's probability above 0.5"
        ours = f"threshold {recipe.threshold:g}" if not recipe.thresholds else "thresholds by contrast and voxel size"
        notes.append(f"nnU-Net decides by {rule}, not by this model's {ours}")
    if recipe.temperature != 1:
        notes.append(f"nnU-Net's probabilities are not divided by this model's temperature {recipe.temperature:g}")
    return notes


_EXTRA_HEADS = [f"out_{i}." for i in range(1, LEVELS + 1)]


def _add_heads(state: OrderedDict[str, np.ndarray], config: MedNeXtConfig) -> None:
    for i in range(1, LEVELS + 1):
        shape = (config.base_channels * 2**i, config.num_classes, 1, 1, 1)
        state[f"out_{i}.conv_out.weight"] = np.zeros(shape, np.float32)
        state[f"out_{i}.conv_out.bias"] = np.zeros(config.num_classes, np.float32)


def _trainer_v1(config: MedNeXtConfig) -> str:
    name, kernel = config.variant_name or "", config.encoder_kernel_size
    if not name or kernel not in (3, 5):
        raise InputError(
            "nnU-Net v1's MedNeXt fork has no trainer that builds this network.",
            expected="MedNeXt-S, B, M or L with kernels of 3 or 5",
            found=name or "an architecture of its own",
            hint="write it with --to mic",
        )
    return f"nnUNetTrainerV2_MedNeXt_{name.removeprefix('MedNeXt-')[0]}_kernel{kernel}"


def _spacing(recipe: Recipe) -> list[float]:
    if recipe.spacing is None:
        raise InputError(
            "nnU-Net needs one target spacing; this model keeps each scan's own.",
            hint='set "spacing" in model.json to the training data\'s (mm), or write it with --to mic',
        )
    return list(recipe.spacing)


def _called(scheme: str, names: Sequence[str]) -> str:
    """The first of a scheme's names in nnU-Net's plans; raises InputError if nnU-Net has none for it."""
    if not names:
        raise InputError(f"nnU-Net does not normalise as {scheme}.", hint="write it with --to mic")
    return names[0]


def _plans_v1(config: MedNeXtConfig, recipe: Recipe) -> dict[str, Any]:
    channels = range(len(recipe.channel_names))
    properties = recipe.intensity_properties
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [LEVELS] * 3,
        "patch_size": np.array(recipe.patch_size),
        "median_patient_size_in_voxels": np.array(recipe.patch_size),
        "current_spacing": np.array(_spacing(recipe)),
        "original_spacing": np.array(_spacing(recipe)),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": [[2, 2, 2]] * LEVELS,
        "conv_kernel_sizes": [[3, 3, 3]] * (LEVELS + 1),
    }
    intensities = properties and {i: dict(properties[i]) | {"sd": properties[i]["std"]} for i in channels}
    return {
        "num_stages": 1,
        "num_modalities": len(channels),
        "modalities": dict(enumerate(recipe.channel_names)),
        "normalization_schemes": OrderedDict(
            (i, _called(name, SCHEMES[name].nnunet_v1)) for i, name in enumerate(recipe.normalisation)
        ),
        "dataset_properties": {"intensityproperties": intensities, "all_classes": list(range(1, config.num_classes))},
        "original_spacings": [np.array(_spacing(recipe))],
        "original_sizes": [np.array(recipe.patch_size)],
        "preprocessed_data_folder": "",
        "num_classes": config.num_classes - 1,
        "all_classes": list(range(1, config.num_classes)),
        "base_num_features": config.base_channels,
        "use_mask_for_norm": OrderedDict((i, recipe.use_mask_for_norm) for i in channels),
        "keep_only_largest_region": None,
        "min_region_size_per_class": None,
        "min_size_per_class": None,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "data_identifier": "nnUNetData_plans_v2.1",
        "plans_per_stage": {0: stage},
        "preprocessor_name": "GenericPreprocessor",
        "conv_per_stage": 2,
    }


def _plans_v2(config: MedNeXtConfig, recipe: Recipe) -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "mednext_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(recipe.patch_size),
        "median_image_size_in_voxels": [float(n) for n in recipe.patch_size],
        "spacing": _spacing(recipe),
        "normalization_schemes": [_called(name, SCHEMES[name].nnunet_v2) for name in recipe.normalisation],
        "use_mask_for_norm": [recipe.use_mask_for_norm] * len(recipe.channel_names),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": {
            "network_class_name": _CLASS,
            "arch_kwargs": {
                "n_channels": config.base_channels,
                "exp_r": list(config.expansion_ratios),
                "kernel_size": None,
                "enc_kernel_size": config.encoder_kernel_size,
                "dec_kernel_size": config.decoder_kernel_size,
                "do_res": config.residual,
                "do_res_up_down": config.residual_resampling,
                "block_counts": list(config.block_counts),
                "norm_type": config.norm,
                "grn": config.grn,
            },
            "_kw_requires_import": [],
        },
        "batch_dice": False,
    }
    properties = recipe.intensity_properties or ({},) * len(recipe.channel_names)
    # the reader that brings scans to RAS is nnU-Net's own; without it axes stay as they are stored
    reader = "NibabelIOWithReorient" if recipe.orientation else "SimpleITKIO"
    return {
        "dataset_name": "Dataset000_MedNeXt",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": _spacing(recipe),
        "original_median_shape_after_transp": list(recipe.patch_size),
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): dict(p) for i, p in enumerate(properties)},
    }


def _dataset_v2(recipe: Recipe) -> dict[str, Any]:
    order = recipe.regions_class_order
    return {
        "channel_names": {str(i): name for i, name in enumerate(recipe.channel_names)},
        "labels": _labels_v2(recipe),
        **({} if order is None else {"regions_class_order": list(order)}),
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }


def _labels_v2(recipe: Recipe) -> dict[str, int | list[int]]:
    """Label name -> value; for regions, in the order of the network's outputs, the values that each holds.

    A recipe knows only what each region writes, later over earlier. So it is taken to hold also all that is written
    over it, as for whole tumour [1, 2, 3], core [2, 3] and enhancing 3. nnU-Net sees regions only where a list has two
    values or more: a single one gets a value that occurs nowhere.
    """
    order = recipe.regions_class_order
    if order is None:
        return dict(recipe.labels)
    values = order if len(order) > 1 else (*order, order[0] + 1)
    names = {value: name for name, value in recipe.labels.items()}
    held = {names[value]: list(values[i:]) for i, value in enumerate(order)}
    return {names[0]: 0} | {name: list_ if len(list_) > 1 else list_[0] for name, list_ in held.items()}


def _pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))


_TRAINER_SOURCE = f'''"""nnU-Net v2 trainer for MIC-DKFZ's MedNeXt; point nnUNet_extTrainer at this folder."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class {_TRAINER_V2}(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        from nnunet_mednext.network_architecture.mednextv1.MedNextV1 import MedNeXt

        return MedNeXt(
            in_channels=num_input_channels,
            n_classes=num_output_channels,
            deep_supervision=enable_deep_supervision,
            **configuration_manager.network_arch_init_kwargs,
        )

    def set_deep_supervision_enabled(self, enabled):
        network = self.network.module if self.is_ddp else self.network
        getattr(network, "_orig_mod", network).do_ds = enabled
'''
