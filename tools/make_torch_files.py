"""Write the small PyTorch files under tests/data/torch_files with real torch: one of each container.

    python tools/make_torch_files.py tests/data/torch_files

The network has one channel and one block per stage, so a file is some 60 kB; its weights come from a seed.
"""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes

CONFIG = MedNeXtConfig(
    in_channels=1, num_classes=2, base_channels=1, block_counts=(1,) * 9, deep_supervision=True, decoder_kernel_size=3
)


def state_dict(seed: int) -> OrderedDict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(CONFIG)
    state = OrderedDict((k, torch.from_numpy(rng.standard_normal(s, np.float32))) for k, s in shapes.items())
    state["dummy_tensor"] = torch.ones(1)
    state._metadata = OrderedDict({"": {"version": 1}})  # as every module's state_dict() carries
    return state


def optimiser_state(state: OrderedDict[str, torch.Tensor]) -> dict:
    step = {"step": torch.tensor(250.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-4, "weight_decay": 3e-5, "params": list(range(len(state)))}
    return {"state": {1: step}, "param_groups": [group]}


def plans_v1() -> dict:
    """The parts of nnU-Net v1's plans that matter, with the types that it pickles."""
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [5, 5, 5],
        "patch_size": np.array([128, 128, 128]),
        "median_patient_size_in_voxels": np.array([208, 300, 320]),
        "current_spacing": np.array([0.8, 0.8, 0.8]),
        "original_spacing": np.array([0.8, 0.8, 0.8]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": [[2, 2, 2]] * 5,
        "conv_kernel_sizes": [[3, 3, 3]] * 6,
    }
    return {
        "num_stages": 1,
        "num_modalities": 1,
        "modalities": {0: "T2w"},
        "normalization_schemes": OrderedDict({0: "nonCT"}),
        "dataset_properties": {
            "all_sizes": [np.array([208, 300, 320])] * 3,
            "all_spacings": [np.array([0.8, 0.8, 0.8])] * 3,
            "all_classes": [1],
            "modalities": {0: "T2w"},
            "intensityproperties": None,
            "size_reductions": OrderedDict({"case_01": np.float64(0.9), "case_02": np.float64(0.95)}),
        },
        "num_classes": 1,
        "all_classes": [1],
        "base_num_features": 32,
        "use_mask_for_norm": OrderedDict({0: False}),
        "keep_only_largest_region": None,
        "min_region_size_per_class": None,
        "min_size_per_class": None,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "data_identifier": "nnUNetData_plans_v2.1_trgSp_0.8x0.8x0.8",
        "plans_per_stage": {0: stage},
        "preprocessor_name": "PreprocessorFor2D",
        "conv_per_stage": 2,
    }


def write_v1(folder: Path) -> None:
    state = state_dict(1)
    losses = [[np.float64(0.5), np.float32(0.25)], [np.float64(0.75)], [], [np.float64(0.1)]]
    checkpoint = {
        "epoch": 500,
        "state_dict": state,
        "optimizer_state_dict": optimiser_state(state),
        "lr_scheduler_state_dict": None,
        "plot_stuff": tuple(losses),
        "best_stuff": (499, np.float64(0.4), np.float64(0.6)),
        "amp_grad_scaler": {"scale": 65536.0, "growth_factor": 2.0, "growth_interval": 2000, "_growth_tracker": 7},
    }
    torch.save(checkpoint, folder / "model_final_checkpoint.model")
    info = OrderedDict()
    info["init"] = ("plans.pkl", 0, "/results/fold_0", "/preprocessed/Task019", False, 0, True, False, True)
    info["name"] = "nnUNetTrainerV2_MedNeXt_L_kernel5_lr_3e_4_500epochs"
    info["class"] = "<class 'nnunet_mednext.training.nnUNetTrainerV2_MedNeXt'>"
    info["plans"] = plans_v1()
    (folder / "model_final_checkpoint.model.pkl").write_bytes(pickle.dumps(info, protocol=4))


def write_v2(folder: Path) -> None:
    plans = {
        "dataset_name": "Dataset001_PVS",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "patch_size": [96, 160, 160],
                "spacing": [1.0, 0.8, 0.8],
                "batch_size": 2,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
            },
            "3d_small": {"inherits_from": "3d_fullres", "patch_size": [64, 64, 64]},
        },
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 10.0, "median": 9.0, "std": 4.0, "percentile_00_5": 1.0, "percentile_99_5": 30.0}
        },
    }
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "PVS": 1}, "numTraining": 2}
    checkpoint = {
        "network_weights": state_dict(2),
        "optimizer_state": optimiser_state(state_dict(2)),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1.0)], "epoch_end_timestamps": []},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans,
            "configuration": "3d_small",
            "fold": 0,
            "dataset_json": dataset,
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainerMedNeXt",
        "inference_allowed_mirroring_axes": (0, 2),
    }
    torch.save(checkpoint, folder / "checkpoint_final.pth")


def write_lightning(folder: Path) -> None:
    weights = OrderedDict((f"model.model.{key}", x) for key, x in state_dict(3).items())
    weights["loss.class_weights"] = torch.ones(2)
    checkpoint = {
        "epoch": 3,
        "global_step": 750,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'dice'}": {"best_model_score": torch.tensor(0.9)}},
        "optimizer_states": [optimiser_state(weights)],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 1e-3, "patch": [128, 128, 128]},
    }
    torch.save(checkpoint, folder / "lightning.ckpt")


def write_tensors(folder: Path) -> None:
    """Every type of tensor, shared storages and strides; the test knows the values."""
    names = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16")
    names += ("uint32", "uint64", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2")
    found = {name: torch.arange(6).to(getattr(torch, name)).reshape(2, 3) for name in names}
    base = torch.arange(24.0).reshape(2, 3, 4)
    found |= {"base": base, "slice": base[1, :, 1:3], "transposed": base.permute(2, 0, 1), "step": base.flatten()[::5]}
    found |= {"expanded": torch.tensor([7.0]).expand(3, 2), "scalar": torch.tensor(5.0), "empty": torch.zeros(0, 4)}
    found |= {"parameter": torch.nn.Parameter(torch.ones(2)), "size": torch.Size([1, 2])}
    torch.save(found, folder / "tensors.pth")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_v1(folder)
    write_v2(folder)
    write_lightning(folder)
    write_tensors(folder)
    torch.save({"weight": torch.ones(3)}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "torchscript.pt")


if __name__ == "__main__":
    main()
