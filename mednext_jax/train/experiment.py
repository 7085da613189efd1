"""What a configuration and a data set make together: cases, network, compiled steps, first state, recipe."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mednext_jax.data.augment import make_augment, read_size
from mednext_jax.data.batches import PatchSampler
from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError, shown
from mednext_jax.evaluate.case import Scores
from mednext_jax.evaluate.cross_validation import ScoredFold
from mednext_jax.inference.predictor import Predictor
from mednext_jax.kernels.best_ops import best_ops
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.parallel.mesh import make_mesh, replicated, rows_of_process
from mednext_jax.parallel.network import check_divides, spread
from mednext_jax.parallel.parameters import shardings_of, state_like
from mednext_jax.parallel.processes import compiled_together
from mednext_jax.simulate.anatomy import Anatomy
from mednext_jax.simulate.generator import PVS
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.generated import GeneratedPatches, Generator, trained_outputs
from mednext_jax.train.optimiser import make_optimiser
from mednext_jax.train.state import TrainState, new_state
from mednext_jax.train.step import LearnedOutputs, Metrics, first_logits, make_train_step, make_validation_step
from mednext_jax.train.validation import validate_scans
from mednext_jax.weights.directory import Model, load_model, read_recipes
from mednext_jax.weights.first_outputs import first_outputs
from mednext_jax.weights.packaged import or_packaged
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.two_classes import as_two_classes
from mednext_jax.weights.upkern import upkern

_LOG = logging.getLogger(__name__)
TRAINING, VALIDATION = 0, 1  # streams of random numbers
VALIDATION_FOREGROUND = 0.33  # at most so many validation patches must contain foreground (nnU-Net)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run needs besides the files it writes."""

    config: TrainConfig
    store: CaseStore
    architecture: MedNeXtConfig
    mesh: Mesh
    operations: str  # which ones the network runs on; all processes must run the same
    state_like: TrainState  # shapes, types and shardings of the state, to restore a checkpoint into
    train_step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]
    validation_step: Callable[[Any, dict[str, jax.Array]], Metrics]
    training: PatchSampler | GeneratedPatches
    validation: PatchSampler
    reads: tuple[int, int]  # (k, n): this process reads the k-th of n parts of each batch
    recipe: Recipe

    @property
    def data_set(self) -> str:
        """The `data_set_hash` of the data set."""
        return data_set_hash(self.store)

    @classmethod
    def of(
        cls, config: TrainConfig, data: str | Path | None = None, anatomies: Sequence[Anatomy] | None = None
    ) -> Experiment:
        """Open the data set, `config.data` or the simulated scans `data`, and build the rest.

        anatomies: those of the generator, if it is enabled. Raises InputError when the two do not fit.
        """
        store = CaseStore.open(data or config.data)
        training_ids, validation_ids = fold_cases(store, config.fold)
        meta, (labels, regions), order = store.meta, _outputs(store), store.meta.regions_class_order
        if config.generator.enabled:  # one region by itself, whatever other outputs help the training
            regions, order = ((PVS,),), (PVS,)
        outputs = len(labels) if regions is None else len(regions)
        learned = LearnedOutputs(outputs, regions, meta.ignore_label)
        if config.generator.enabled:
            learned = trained_outputs(config.generator)
        architecture = dataclasses.replace(
            config.model, in_channels=len(meta.channel_names), num_classes=learned.number
        )
        mesh = make_mesh(config.mesh.data, config.mesh.space, config.mesh.height)
        check_divides(architecture, mesh, (config.batch_size // config.accumulate, *config.patch_size))
        values = sorted({0, *itertools.chain(*meta.classes.values())})
        values += [] if meta.ignore_label is None else [meta.ignore_label]
        generator = None
        if anatomies is not None:
            generator = Generator(config.generator, anatomies, config.patch_size, mesh, meta.name)
        augment = make_augment(
            config.augment, config.patch_size, mesh, labels=values, zero_outside=meta.use_mask_for_norm
        )
        kinds = [kind for kind, _, _ in architecture.blocks()]
        norm, grn = architecture.norm, architecture.grn
        ops = best_ops(dtype=architecture.dtype, norm=norm, grn=grn, kinds=kinds, gradients=True)
        apply = spread(architecture, mesh, ops)
        state = state_like(functools.partial(initial_state, config, architecture), mesh, shared=config.mesh.share_state)
        sampler = PatchSampler(
            cases=store,
            ids=training_ids,
            batch_size=config.batch_size,
            patch_size=config.patch_size,
            read_size=read_size(config.augment, config.patch_size),
            foreground_fraction=config.foreground_fraction,
            seed=config.seed,
            stream=TRAINING,
            probabilistic=config.foreground_rule == "probabilistic",
        )
        train_step = compiled_together(
            make_train_step(
                config,
                apply,
                generator.patches if generator else augment,
                mesh,
                state,
                batch_shardings=generator and generator.shardings,
                ignore_label=learned.ignore_label,
                regions=learned.regions,
            )
        )
        return cls(
            config=config,
            store=store,
            architecture=architecture,
            mesh=mesh,
            operations=ops.described,
            state_like=state,
            train_step=train_step if generator is None else generator.with_anatomies(train_step),
            validation_step=compiled_together(
                make_validation_step(
                    config,
                    first_logits(apply, outputs),
                    mesh,
                    state.params,
                    ignore_label=meta.ignore_label,
                    regions=regions,
                )
            ),
            training=GeneratedPatches(config.batch_size) if generator else sampler,
            validation=dataclasses.replace(
                sampler,
                ids=validation_ids,
                read_size=config.patch_size,
                # Background is validated on, too, where all training patches are drawn around foreground.
                foreground_fraction=min(config.foreground_fraction, VALIDATION_FOREGROUND),
                stream=VALIDATION,
            ),
            reads=rows_of_process(mesh, jax.process_index()),
            recipe=Recipe(
                channel_names=meta.channel_names,
                labels=labels,
                regions_class_order=None if regions is None else order,
                patch_size=config.patch_size,
                **vars(meta.preprocessing),
                mirror_axes=config.augment.mirror_axes,
            ),
        )

    @property
    def described_cases(self) -> tuple[str, ...]:
        """The cases that say what the training's are like: these, or of generated patches the simulated scans."""
        return self.validation.ids if isinstance(self.training, GeneratedPatches) else self.training.ids

    @property
    def fold(self) -> ScoredFold:
        """The fold that the validation scores are of."""
        meta = self.store.meta
        return ScoredFold(
            index=self.config.fold,
            count=len(self.store.splits),
            splits=str(meta.settings.get("splits", "")),
            data_set=meta.name,
            data_set_sha256=self.data_set,
            channels=meta.channel_names,
            spacing=meta.spacing,
            cases=self.validation.ids,
        )

    def validate_scans(
        self, params: Any, folder: Path | None = None, pictures: Path | None = None
    ) -> dict[str, dict[str, Scores]]:
        """`validate_scans` of the fold's validation cases with these weights (on the host); all processes call it."""
        architecture, params = self.result(params)
        one_head = dataclasses.replace(architecture, deep_supervision=False)
        predictor = Predictor(Model(one_head, params, self.recipe))
        return validate_scans(self.store, self.fold, predictor, folder, pictures)

    def result(self, params: Any) -> tuple[MedNeXtConfig, Any]:
        """The network that the run leaves, with these weights: its outputs are the recipe's."""
        order = self.recipe.regions_class_order
        return first_outputs(self.architecture, params, len(self.recipe.labels if order is None else order))

    def first_state(self) -> TrainState:
        """The state before step 0: PyTorch's initialisation from the seed, or the weights of `init_from`."""
        config = self.config
        start = None
        if config.init_from:
            start = _weights_of(config, self.architecture)
            warn_of_other_preparation(config.init_from, self.recipe)
        # Runs once: on a CPU, optimising a hundred random draws takes LLVM half a minute.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        init = functools.partial(initial_state, config, self.architecture)
        return jax.jit(init, out_shardings=shardings_of(self.state_like), compiler_options=options)(start)


def data_set_hash(store: CaseStore) -> str:
    """A hash of what a prepared data set says about itself: sources, settings, splits."""
    text = store.meta.to_json() + json.dumps(store.splits)
    return hashlib.sha256(text.encode()).hexdigest()


def initial_state(config: TrainConfig, architecture: MedNeXtConfig, params: Any = None) -> TrainState:
    """The state before step 0 with these weights, by default PyTorch's initialisation from `config.seed`."""
    if params is None:
        image = jnp.zeros((1, 16, 16, 16, architecture.in_channels))
        params = MedNeXt(architecture).init(jax.random.key(config.seed), image)["params"]
    return new_state(params, make_optimiser(config.optimiser), average=config.optimiser.ema > 0)


def to_host(params: Any) -> Any:
    """Parameters as NumPy arrays; every process must call it, because shares are gathered."""
    shares = [leaf.sharding for leaf in jax.tree.leaves(params) if not leaf.is_fully_replicated]
    if shares:
        params = jax.jit(lambda whole: whole, out_shardings=replicated(shares[0].mesh))(params)
    return jax.tree.map(np.asarray, jax.device_get(params))


def fold_cases(store: CaseStore, fold: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and validation ids of a fold, or every case twice for "all" (nnU-Net's meaning).

    Raises InputError for a fold that is not there or has no case to train on or to validate on.
    """
    if fold == "all":
        return tuple(store.ids), tuple(store.ids)
    splits = store.splits
    if int(fold) >= len(splits):
        raise InputError(
            "config.fold is not in the data set's splits.",
            expected=f"0 to {len(splits) - 1}, or 'all'",
            found=fold,
        )
    split = splits[int(fold)]
    for part in ("train", "val"):
        if not split[part]:
            raise InputError(
                f"Fold {fold} of the data set has no case in its '{part}' part.",
                hint="prepare it again with other --splits",
            )
    return tuple(split["train"]), tuple(split["val"])


def _outputs(store: CaseStore) -> tuple[dict[str, int], tuple[tuple[int, ...], ...] | None]:
    """Label name -> value in a predicted mask, and for region labels the stored values of each region, else None.

    Raises InputError for a class order that does not number the regions 1, 2, ...
    """
    meta = store.meta
    if meta.regions_class_order is None:
        return {name: int(value) for name, value in meta.labels.items() if isinstance(value, int)}, None
    order, regions = meta.regions_class_order, tuple(meta.classes.values())
    if sorted(order) != list(range(1, len(regions) + 1)):
        raise InputError(
            "The class order of the regions does not give each its own value.",
            file=store.path,
            expected=f"regions_class_order with the values 1 to {len(regions)}",
            found=order,
            hint="correct dataset.json and prepare the data set again",
        )
    names = [name for name, value in meta.labels.items() if value not in (0, (0,))]
    return {"background": 0, **dict(zip(names, order, strict=True))}, regions


def warn_of_other_preparation(model: str, recipe: Recipe) -> None:
    """Warn if the scans of a training are prepared otherwise than those that its first weights learned from."""
    for theirs in read_recipes(or_packaged(model)).values():
        for name in ("normalisation", "use_mask_for_norm", "spacing", "optional_steps"):
            if getattr(recipe, name) != getattr(theirs, name):
                _LOG.warning(
                    "The data set is prepared with %s %s, the model in config.init_from learned with %s. Prepare it "
                    "alike; the normalisation goes by the channel's name in dataset.json (there: %s).",
                    name,
                    getattr(recipe, name),
                    getattr(theirs, name),
                    shown(", ".join(theirs.channel_names)),
                )


def _weights_of(config: TrainConfig, architecture: MedNeXtConfig) -> Any:
    """Parameters of the model directory `config.init_from` for this architecture.

    `config.upkern`: enlarge its smaller kernels to this architecture's (UpKern). A model of one region continues as one
    of two classes. Raises InputError if they differ else.
    """
    path = or_packaged(config.init_from)
    model = load_model(path)
    theirs, params = model.config, model.params
    if (architecture.num_classes, theirs.num_classes) == (2, 1):
        theirs, params = as_two_classes(theirs, params)
    kernel = architecture.encoder_kernel_size
    enlarges = kernel == architecture.decoder_kernel_size > max(theirs.encoder_kernel_size, theirs.decoder_kernel_size)
    if enlarges and config.upkern:
        theirs, params = upkern(theirs, params, kernel)
    free = ("deep_supervision", "dtype", "remat")  # heads are looked at below, arithmetic is free
    for field in dataclasses.fields(MedNeXtConfig):
        ours, found = getattr(architecture, field.name), getattr(theirs, field.name)
        if ours != found and field.name not in free:
            raise InputError(
                f"The model in config.init_from has another {field.name}.",
                file=path,
                expected=ours,
                found=found,
                hint="set config.upkern=true to enlarge the kernels" if enlarges else None,
            )
    if architecture.deep_supervision and not theirs.deep_supervision:
        raise InputError(
            "The model in config.init_from has no heads for deep supervision.",
            file=path,
            hint="set config.model.deep_supervision=False",
        )
    heads = 5 if architecture.deep_supervision else 1
    return {
        name: value
        for name, value in params.items()
        if not name.startswith("out_") or int(name.removeprefix("out_")) < heads
    }
