"""The NumPy objects that loss histories and nnU-Net's plans hold, rebuilt from a pickle's plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# bool, integers, floats, complex numbers, fixed-length text and bytes; no objects, records or dates
_DTYPE = re.compile(r"[?]|b1|[iu][1248]|f[248]|c8|c16|[US][0-9]{1,4}")


class Foreign:
    """A placeholder for an object of a kind that is not read: its name, nothing of what it held, nothing to call."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Unbuilt:
    """An array or dtype between its creation and the state that completes it (pickle's BUILD)."""

    def __init__(self, build: Callable[[Any], Any]):
        self.build = build
        self.memo_index: int | None = None


def _dtype(text: Any, align: Any = False, copy: Any = False) -> Unbuilt | Foreign:
    if not isinstance(text, str):
        raise ValueError("a NumPy type without a name")
    if not _DTYPE.fullmatch(text):
        return Foreign(f"a NumPy type that is not read: {ascii(text[:20])}")

    def build(state: Any) -> np.dtype:
        # (version, byte order, subdtype, names, fields, itemsize, alignment, flags)
        order, rest = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest):
            raise ValueError("a NumPy type with fields")
        return np.dtype(text).newbyteorder(order)

    return Unbuilt(build)


def _array_of(data: Any, dtype: Any, shape: Any, *, fortran: bool) -> np.ndarray | Foreign:
    if isinstance(dtype, Foreign):
        return dtype
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or not isinstance(shape, tuple):
        raise ValueError("a NumPy array of objects")
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError("a NumPy array with an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("a NumPy array whose shape and data differ in size")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C") if data else np.zeros(shape, dtype)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Unbuilt:
    def build(state: Any) -> np.ndarray | Foreign:
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin-1")
        return _array_of(data, dtype, shape, fortran=bool(fortran))

    return Unbuilt(build)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray | Foreign:
    return _array_of(data, dtype, shape, fortran=isinstance(order, str) and order == "F")


def _scalar(dtype: Any, data: Any) -> Any:
    if isinstance(data, str):
        data = data.encode("latin-1")
    found = _array_of(data, dtype, (), fortran=False)
    return found if isinstance(found, Foreign) else found.item()


_HOMES = ("numpy.core", "numpy._core")
# (what may be called, what may be named)
NUMPY_GLOBALS: tuple[Mapping[str, Callable[..., Any]], Mapping[str, Any]] = (
    {
        "numpy.dtype": _dtype,
        **{f"{home}.multiarray.scalar": _scalar for home in _HOMES},
        **{f"{home}.multiarray._reconstruct": _reconstruct for home in _HOMES},
        **{f"{home}.numeric._frombuffer": _from_buffer for home in _HOMES},
    },
    {"numpy.ndarray": np.ndarray},
)
