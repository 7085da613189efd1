"""Training on patches that are made on the device: their batches, and the simulated scans for validation."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mednext_jax.data.batches import Batch
from mednext_jax.errors import InputError
from mednext_jax.parallel.mesh import over_samples, replicated
from mednext_jax.prepare.prepare import prepare
from mednext_jax.simulate.anatomy import Anatomy, stacked
from mednext_jax.simulate.generator import IGNORED, LESION, PVS, make_generate
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.heads import digest, simulate_heads, training_and_held_out
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.step import LearnedOutputs

FOLDER = "simulated"  # in the work folder: the prepared validation scans
CHANNEL = "bright-fluid MRI"  # names the normalisation: one polarity for all contrasts
SPACING = 1.0  # mm, of the generator's voxels
_SEED = 1_000_003  # apart from every training's


@dataclasses.dataclass(frozen=True)
class GeneratedPatches:
    """The batches of a training whose patches the device makes: only which row is whose."""

    batch_size: int
    ids: tuple[str, ...] = ("generated patches",)

    def __call__(self, step: int, row: int) -> Batch:
        return {"case": np.asarray(0, np.int32), "row": np.asarray(row, np.int32)}


class Generator:
    """The generator on a mesh, with its anatomies on every device."""

    def __init__(
        self,
        config: GeneratorConfig,
        anatomies: Sequence[Anatomy],
        patch_size: tuple[int, int, int],
        mesh: Mesh,
        scans: str | None = None,
    ):
        """anatomies: those to train in and those held out. scans: name of the run's simulated scans.

        Raises InputError if these were made beside other anatomies.
        """
        anatomies, _ = training_and_held_out(config, anatomies)
        if scans is not None and _named(anatomies) not in scans:
            raise InputError(
                "The label maps are not those that this run started with.",
                file=config.anatomy or None,
                expected=scans,
                found=f"{_named(anatomies)} for training",
                hint="bring the folder back to what it was, or start a new run in another --workdir",
            )
        whole = replicated(mesh)
        self.anatomies = {name: _everywhere(array, whole) for name, array in stacked(anatomies).items()}
        samples = PartitionSpec("data")
        self._generate = jax.shard_map(
            make_generate(config, patch_size),
            mesh=mesh,
            in_specs=(PartitionSpec(), samples, PartitionSpec()),
            out_specs=samples,
            check_vma=False,  # along "space" every device makes the same patch
        )
        self.shardings = {"row": over_samples(mesh), "anatomies": dict.fromkeys(self.anatomies, whole)}

    def patches(self, key: jax.Array, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        """Image (n, d, h, w, 1) and label (n, d, h, w) of a batch."""
        return self._generate(key, batch["row"], batch["anatomies"])

    def with_anatomies(self, step: Callable[[Any, dict[str, Any]], Any]) -> Callable[[Any, dict[str, Any]], Any]:
        """A compiled step (state, batch) that is given the anatomies beside its batch."""
        return lambda state, batch: step(state, {**batch, "anatomies": self.anatomies})


def trained_outputs(config: GeneratorConfig) -> LearnedOutputs:
    """What a network learns of generated patches: perivascular spaces, and to tell them from lesions."""
    regions = ((PVS,), (LESION,)) if config.lesions_as_output else ((PVS,),)
    return LearnedOutputs(len(regions), regions, IGNORED)


def _everywhere(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_process_local_data(sharding, array, array.shape)


def simulated_scans(config: TrainConfig, anatomies: Sequence[Anatomy], workdir: Path) -> Path:
    """The prepared data set of whole simulated scans in `workdir` that a run validates on; made if it is not there.

    In anatomies that the training does not see, if some are held out; contrasts in turn, every fourth head with its
    skull. Its name holds what tells the anatomies of training and validation from others.
    """
    generator, data = config.generator, workdir / FOLDER
    if data.is_dir():
        return data
    training, held_out = training_and_held_out(generator, anatomies)
    print(f"simulating {generator.validation_scans} scans for validation", flush=True)
    raw, unfinished = workdir / f".{FOLDER}_raw", workdir / f".{FOLDER}"
    for folder in (raw, unfinished):  # of a run that was killed while it made them
        shutil.rmtree(folder, ignore_errors=True)
    workdir.mkdir(parents=True, exist_ok=True)
    name = f"simulated PVS in label maps, {_named(training)} for training"
    # Lesions are an output for the training's sake; scores are of perivascular spaces.
    scans = dataclasses.replace(generator, lesions_as_output=False)
    simulate_heads(raw, generator.validation_scans, "mixed", _SEED, scans, held_out, name=name, channel=CHANNEL)
    prepare(raw, unfinished, spacing=SPACING, splits="kfold:2")
    unfinished.rename(data)
    shutil.rmtree(raw)
    return data


def _named(anatomies: Sequence[Anatomy]) -> str:
    return f"{len(anatomies)} ({digest(anatomies)})"
