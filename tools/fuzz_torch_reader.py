"""Fuzz the readers of strangers' models: torch zip files, pickled plans, plans.json, safetensors, model.json.

    python tools/fuzz_torch_reader.py [--inputs 100000] [--seed 0]

Every input is a real file with random damage (bytes flipped, cut, copied, numbers replaced by extreme ones, opcodes
or JSON spliced in) or a random sequence of pickle opcodes. Whatever happens, it must be InputError or a clean read,
and the memory must stay within twice the input's size plus the allowance that small files have.
"""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import random
import re
import struct
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import safetensors.numpy
from hypothesis import HealthCheck, given, seed, settings, strategies

from mednext_jax.convert.architecture import recognise
from mednext_jax.convert.containers import read_checkpoint
from mednext_jax.convert.convert import info
from mednext_jax.convert.nnunet_plans import plan_of_v1, plan_of_v2
from mednext_jax.convert.sources import read_sources
from mednext_jax.convert.torch_reader.pickle_reader import read_pickle
from mednext_jax.errors import InputError
from mednext_jax.io.json_file import parse_json
from mednext_jax.weights.directory import DESCRIPTION, save_model
from mednext_jax.weights.names import expected_shapes

DATA = Path(__file__).parent.parent / "tests/data/torch_files"
# What the pickle reader grants small files, and what Python and zlib take for themselves.
ALLOWANCE = 32 * 2**20 + 16 * 2**20
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
FRAGMENTS = [
    *(b"cos\nsystem\n", b"\x8c\x02os\x94\x8c\x06system\x94\x93", b"X\x04\x00\x00\x00true\x85R"),
    *(b"ccollections\nOrderedDict\n", b"ccollections\nOrderedDict\n)R", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"),
    *(b"cnumpy._core.multiarray\n_reconstruct\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"(lq\x00", b"h\x00", b"\x94", b"}", b"]", b"Q", b"b", b"R", b"r\xff\xff\xff\xff"),
    *(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"),
]
JSON_FRAGMENTS = [
    *(b"null", b"true", b"[]", b"{}", b"[[1]]", b'{"a": {}}', b"-1", b"1e308", b"1e999", b"9" * 30),
    *(b'""', b'"\\ud800"', b'"\\u001b[2J"', b"[" * 200, b'"' + b"x" * 5000 + b'"', b"0.5", b"7", b"16"),
    *(b'["a"]', b"[0, 1, 2]", b"[16, 16, 16]", b"[true]", b'{"0": {}}', b"[[[[]]]]", b'"NibabelIOWithReorient"'),
]
OPCODES = bytes(range(0x28, 0x7E)) + bytes(range(0x80, 0x99))


def seeds() -> list[tuple[str, bytes]]:
    """(kind, real file): the kind says which reader it goes to."""
    names = ("model_final_checkpoint.model", "checkpoint_final.pth", "lightning.ckpt", "tensors.pth", "torchscript.pt")
    found = [("torch", (DATA / name).read_bytes()) for name in names]
    plans = (DATA / "model_final_checkpoint.model.pkl").read_bytes()
    found += [("pickle", plans)] + [("pickle", pickle.dumps(pickle.loads(plans), protocol)) for protocol in (2, 3, 5)]
    state = read_checkpoint(DATA / "checkpoint_final.pth").state
    found.append(("safetensors", safetensors.numpy.save({key: x.copy() for key, x in state.items()})))
    found += [("model.json", model_description())] * 2
    init = read_checkpoint(DATA / "checkpoint_final.pth").rest["init_args"]
    return [*found, ("plans.json", json.dumps([init["plans"], init["dataset_json"]]).encode())]


def model_description() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        convert_quietly(Path(folder) / "model")
        return (Path(folder) / "model" / DESCRIPTION).read_bytes()


def convert_quietly(target: Path) -> None:
    source = read_sources(DATA / "checkpoint_final.pth")[""]
    save_model(target, source.config, source.params, source.recipe, source.provenance)


def damaged_json(rng: random.Random, data: bytes) -> bytes:
    """Put one to four values where others stand; one time in eight damage the text itself as well."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        values = list(re.finditer(rb'"[^"]*"|-?[0-9][0-9.e+-]*|true|false|null|\[[^\[\]]*\]|\{[^{}]*\}', data))
        if not values:
            break
        place = rng.choice(values)
        data = data[: place.start()] + rng.choice(JSON_FRAGMENTS) + data[place.end() :]
    return data if rng.randrange(8) else damaged(rng, data)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """One to eight random wounds."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not found:
            break
        position, length = rng.randrange(len(found)), rng.choice((1, 1, 2, 4, 8, 64, 1024))
        wound = rng.randrange(7)
        if wound == 0:
            found[position] = rng.randrange(256)
        elif wound == 1:
            found[position] ^= 1 << rng.randrange(8)
        elif wound == 2:
            width = rng.choice((1, 2, 4, 8))
            found[position : position + width] = struct.pack("<Q", rng.choice(EXTREMES))[:width]
        elif wound == 3:
            del found[position : position + length]
        elif wound == 4:
            found[position:position] = found[(start := rng.randrange(len(found))) : start + length]
        elif wound == 5:
            found[position:position] = rng.choice(FRAGMENTS)
        elif rng.randrange(5) == 0:
            del found[position:]
    return bytes(found)


def random_opcodes(rng: random.Random) -> bytes:
    parts = [b"\x80", bytes([rng.randrange(6)])]
    for _ in range(rng.randrange(1, 200)):
        parts.append(rng.choice(FRAGMENTS) if rng.randrange(5) < 2 else bytes([rng.choice(OPCODES), rng.randrange(8)]))
    return b"".join(parts) + b"."


def damaged_zip(rng: random.Random, data: bytes) -> bytes:
    """Damage the pickle inside an archive that is otherwise sound, checksums and all: deeper than its wrapping."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(data)
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            for member in old.namelist():
                content = old.read(member)
                if member.endswith("data.pkl"):
                    content = damaged(rng, content) if rng.randrange(5) else random_opcodes(rng)
                new.writestr(member, content)
        target.seek(0)
        return target.read()


def read(kind: str, data: bytes, path: Path) -> str:
    """Send an input through its reader and all that follows; returns how it ended."""
    try:
        if kind == "pickle":
            plan_of_v1(read_pickle(memoryview(data), file="x.pkl"), file="x.pkl")
            return "plans"
        if kind == "plans.json":
            found = parse_json(data, "plans.json")
            if not isinstance(found, list) or len(found) != 2:
                return "no pair of plans and data set"
            plans, dataset = found
            plan_of_v2(plans, dataset, "3d_small", (0, 1), file="plans.json")
            return "plans"
        if kind == "model.json":
            (path.parent / "model" / DESCRIPTION).write_bytes(data)
            info(path.parent / "model").encode()
            return "model directory"
        path.write_bytes(data)
        checkpoint = read_checkpoint(path)
        config = recognise(checkpoint.state).config
        return f"network of {len(expected_shapes(config))} tensors"
    except InputError as error:
        return str(error).splitlines()[0][:60]


class Tally:
    """How the inputs ended, and the most memory beyond twice an input's size."""

    def __init__(self, folder: Path):
        self.path = folder / "x"
        convert_quietly(folder / "model")
        self.corpus = seeds()
        self.ends = collections.Counter[str]()
        self.kinds = collections.Counter[str]()
        self.beyond = 0

    def one(self, rng: random.Random) -> None:
        kind, real = rng.choice(self.corpus)
        way = rng.randrange(10)
        if kind == "torch" and way < 5:
            data = damaged_zip(rng, real)
        elif kind == "pickle" and way < 3:
            data = random_opcodes(rng)
        elif kind.endswith(".json"):
            data = damaged_json(rng, real)
        else:
            data = damaged(rng, real)
        measured = self.ends.total() % 10 == 0  # tracing memory slows the readers several times
        if measured:
            tracemalloc.start()
        self.kinds[kind] += 1
        self.ends[read(kind, data, self.path)] += 1
        if measured:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.beyond = max(self.beyond, peak - 2 * len(data))
            assert peak <= 2 * len(data) + ALLOWANCE, f"{peak} bytes for a file of {len(data)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tally = Tally(Path(folder))

        # hypothesis draws every random number, so that it can shrink the input that breaks a reader
        @seed(options.seed)
        @settings(max_examples=options.inputs, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(rng=strategies.randoms(use_true_random=False))
        def fuzz(rng: random.Random) -> None:
            tally.one(rng)

        fuzz()
    for end, count in tally.ends.most_common():
        print(f"{count:8d}  {end}")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(tally.kinds.items())))
    seconds, beyond = time.perf_counter() - started, tally.beyond / 2**20
    print(f"{tally.ends.total()} inputs in {seconds:.0f} s, no crash; memory within twice the file + {beyond:.1f} MiB")


if __name__ == "__main__":
    main()
