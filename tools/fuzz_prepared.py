"""Fuzz what training reads back: prepared data sets and checkpoints.

    python tools/fuzz_prepared.py [--inputs 2000] [--seed 0]

Every input is a sound data set, or a sound pair of checkpoints, with one file gone, emptied, cut, nested deep, of
another kind or with flipped and replaced bytes and numbers. A data set must be refused with an InputError, when it is
opened or read, or read as it was written; of checkpoints the newest must come back, or the one before it with a line.
Ends at once with the damage that does anything else.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import random
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mednext_jax.data.case_store import ANNOTATED, CaseStore, CaseWriter
from mednext_jax.data.prepared import FORMAT, FORMAT_VERSION
from mednext_jax.errors import InputError
from mednext_jax.train.checkpoint import Checkpoints
from mednext_jax.train.state import TrainState, new_state

SHAPE = (20, 18, 22)
NUMBERS = ("-1", "0", "7", "1e308", "-0.5", "9007199254740993", "1073741824", "null", "[]", "[1]", '"3"', "{}", "true")


def write_data(path: Path) -> None:
    """A data set of three cases, with an ignore label and regions."""
    writer, rng, ids = CaseWriter(path), np.random.default_rng(0), ["sub-01", "sub-02", "sub-03"]
    properties: dict[str, Any] = dict.fromkeys(("shape", "box_shape", "resampled_shape"), SHAPE)
    properties |= {"box_start": (0, 0, 0)} | dict.fromkeys(("spacing", "resampled_spacing"), (1.0, 1.0, 1.0))
    for case in ids:
        image = rng.normal(size=(*SHAPE, 1)).astype(np.float32)
        label = (rng.random(SHAPE) > 0.98).astype(np.int16)
        voxels = {1: np.argwhere(label == 1), ANNOTATED: np.argwhere(label >= 0)[:100]}
        record = {"key": case, "properties": properties, "stored_shape": SHAPE, "affine": np.eye(4).tolist()}
        writer.write_case(case, image, label, voxels, record, rng.integers(0, 3, SHAPE))
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": "PVS",
        "channel_names": ["T2w"],
        "labels": {"background": 0, "pvs": 1},
        "ignore_label": 2,
        "regions_class_order": None,
        "spacing": [1.0, 1.0, 1.0],
        "normalisation": ["zscore"],
        "use_mask_for_norm": False,
        "intensity_properties": None,
        "cases": ids,
        "subjects": dict(zip(ids, ids, strict=True)),
        "sources": {},
        "settings": {},
        "versions": {},
        "regions": {"left": 1, "right": 2},
        "cleaning": [],
    }
    (path / "prepared.json").write_text(json.dumps(description, indent=1))
    folds = [{"train": ids[:2], "val": ids[2:]}, {"train": ids[1:], "val": ids[:1]}]
    (path / "splits.json").write_text(json.dumps(folds, indent=1))


def write_checkpoints(path: Path) -> dict[int, TrainState]:
    """Two checkpoints; returns their states."""
    params = {"block": {"kernel": jnp.asarray(np.random.default_rng(0).random(3000), jnp.float32)}}
    first = new_state(params, optax.scale_by_adam(), average=True)
    states = {
        step: first._replace(step=jnp.asarray(step, jnp.int32), params=jax.tree.map(lambda x, n=step: n * x, params))
        for step in (1, 2)
    }
    checkpoints = Checkpoints(path, keep=5)
    for step, state in states.items():
        checkpoints.save(step, state, {"seed": 0, "patch_size": [32, 32, 32]}, step / 4)
    checkpoints.wait()
    checkpoints.close()
    return states


def damage(rng: random.Random, path: Path) -> str:
    """One wound to a file; returns its name."""
    data = bytearray(path.read_bytes())
    kinds = ["gone", "empty", "cut", "deep", "null", "flipped", "bytes", "copied"]
    text = path.name != "c" and data[:1] in (b"{", b"[")
    wound = rng.choice([*kinds, "number", "number", "number", "word"] if text else kinds)
    if wound == "gone":
        path.unlink()
        return wound
    if wound in ("empty", "deep", "null"):
        data = bytearray({"empty": b"", "deep": b"[" * rng.choice((600, 100_000)), "null": b"null"}[wound])
    elif wound == "cut":
        del data[rng.randrange(len(data)) :]
    elif wound == "flipped":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif wound == "bytes":
        for _ in range(rng.choice((1, 4, 16))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif wound == "copied":
        start, to, length = (rng.randrange(len(data)) for _ in range(3))
        data[to : to + length] = data[start : start + length]
    else:
        pattern = rb"-?\d[\d.e+-]*" if wound == "number" else rb'"[^"]*"'
        places = list(re.finditer(pattern, data))
        if places:
            start, end = rng.choice(places).span()
            data[start:end] = rng.choice(NUMBERS).encode()
    path.write_bytes(data)
    return wound


def read_all(path: Path) -> dict[str, Any]:
    """Everything that a run reads of a data set."""
    store = CaseStore.open(path)
    found: dict[str, Any] = {"splits": store.splits}
    for case in store.ids:
        image, label = store.read(case)
        crop = store.crop(case, (-2, 3, 5), (16, 16, 16))
        arrays = [image, label, *crop, store.regions(case), store.annotated(case), *store.foreground(case).values()]
        record = {name: store.record(case)[name] for name in ("properties", "affine", "stored_shape")}
        found[case] = ([None if x is None else x.tobytes() for x in arrays], record)
    return found


def one_data_set(sound: Path, path: Path, expected: dict[str, Any], rng: random.Random) -> str:
    """Damage a copy of a data set and read it; returns how that ended."""
    shutil.copytree(sound, path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    described = [p for p in files if p.name in ("prepared.json", "splits.json", "case.json")]
    file = rng.choice(rng.choice((files, described)))
    name = re.sub(r"sub-\d+", "ID", str(file.relative_to(path)))
    wound = damage(rng, file)
    try:
        found = read_all(path)
    except InputError:
        return f"{name}: refused"
    if file.name == "prepared.json":  # its own words are its only witness
        return f"{name}: read"
    if found == expected:
        return f"{name}: as written"
    if file.name in ("splits.json", "case.json"):  # another sound value: no data was read as other data
        return f"{name}: read with another value"
    raise AssertionError(f"{name}, {wound}: read as other voxels")


def one_checkpoint(sound: Path, path: Path, states: dict[int, TrainState], rng: random.Random) -> str:
    """Damage a copy of the newest checkpoint and restore; returns how that ended."""
    shutil.copytree(sound, path)
    file = rng.choice(sorted(p for p in (path / "2").rglob("*") if p.is_file()))
    name, wound = file.relative_to(path), damage(rng, file)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), states[1])
    said, configs = io.StringIO(), list[dict[str, Any]]()
    with contextlib.redirect_stderr(said):
        checkpoints = Checkpoints(path, keep=5)
        state = checkpoints.restore_newest(like, configs.append)
        checkpoints.close()
    assert state is not None, f"{name}, {wound}: no state"
    step = int(state.step)
    same = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state, states[step]))
    assert same and configs[-1]["seed"] == 0, f"{name}, {wound}: another state"
    assert step == 2 or "damaged" in said.getvalue(), f"{name}, {wound}: not a word"
    return "checkpoint: as written" if step == 2 else "checkpoint: set aside, the one before restored"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, rng = time.perf_counter(), random.Random(options.seed)
    ends = collections.Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        data, checkpoints, damaged = (Path(folder) / name for name in ("data", "checkpoints", "damaged"))
        write_data(data)
        expected, states = read_all(data), write_checkpoints(checkpoints)
        for _ in range(options.inputs):
            ends[one_data_set(data, damaged, expected, rng)] += 1
            shutil.rmtree(damaged)
            ends[one_checkpoint(checkpoints, damaged, states, rng)] += 1
            shutil.rmtree(damaged)
    for end, count in sorted(ends.items()):
        print(f"{count:8d}  {end}")
    print(f"{ends.total()} inputs in {time.perf_counter() - started:.0f} s, no crash")


if __name__ == "__main__":
    main()
