"""Compiled kernels on disk: what is read is what was written, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mednext_jax.kernels.kept import read_kept, write_kept
from mednext_jax.kernels.kernel_cache import keep_compiled_kernels

pytestmark = pytest.mark.core

KEPT = {"kernel": ["name", 4, 1, 1024, "ptx", "", 90], "arguments": [1, 2], "machine_code": "f0VMRg=="}


def test_a_kernel_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "triton" / "kernel.json"
    assert read_kept(path) is None
    write_kept(path, KEPT)
    assert read_kept(path) == KEPT


def test_any_flipped_bit_and_any_cut_makes_a_kernel_be_compiled_again(tmp_path: Path) -> None:
    path = tmp_path / "kernel.json"
    write_kept(path, KEPT)
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1  # most of these are still JSON, with another machine code or number
        path.write_bytes(damaged)
        assert read_kept(path) is None, at
        path.write_bytes(whole[:at])
        assert read_kept(path) is None, at
    path.write_text(json.dumps(KEPT))  # as written before there was a checksum
    assert read_kept(path) is None


def test_a_disk_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    write_kept(tmp_path / "file" / "kernel.json", KEPT)
    assert read_kept(tmp_path / "file" / "kernel.json") is None


class Compiler:
    """As much of jax-triton's `triton_lib` as the cache touches; it counts what it compiles."""

    def __init__(self) -> None:
        self.triton_kernel_call_lib = self
        self.compiled = 0

    def TritonKernel(self, *made_of: object) -> tuple[object, ...]:
        return made_of

    def TritonKernelCall(self, *_: object) -> None: ...

    def get_or_create_triton_kernel(
        self, new_backend: object, platform: str, kernel: object, **options: object
    ) -> tuple[object, dict[tuple[int], int]]:
        self.compiled += 1
        return self.TritonKernel(*KEPT["kernel"][:5], "ttir", 90), {(0,): 1}

    cache_key = "source"

    def parse_options(self, options: object) -> None: ...

    def make_cubin(self, *_: object) -> bytes:
        return b"\x7fELF"


def test_a_damaged_file_is_compiled_and_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    settings = SimpleNamespace(config=SimpleNamespace(jax_compilation_cache_dir=str(tmp_path)))
    monkeypatch.setattr("mednext_jax.kernels.kernel_cache.jax", settings)
    compiler = Compiler()
    keep_compiled_kernels(compiler)

    def compile_it() -> object:
        options = {"compute_capability": 90, "num_warps": 1, "enable_fp_fusion": True}
        return compiler.get_or_create_triton_kernel(lambda *_: compiler, "cuda", compiler, **options)

    first = compile_it()
    assert compile_it() == first and compiler.compiled == 1
    (path,) = (tmp_path / "triton").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"f0VMRg==", b"f0VMRh=="))
    assert compile_it() == first and compiler.compiled == 2
    assert path.read_bytes() == whole
