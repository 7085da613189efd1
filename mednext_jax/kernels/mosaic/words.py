"""32-bit words of channels inside a TPU kernel, and how a step of a depthwise kernel moves activations through them.

Products need the lines of one channel under each other, activations have the channels of one line so. Words bridge it:
a word of two bfloat16 channels can be read and written at any distance, so a step copies its lines into words once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mednext_jax.kernels.mosaic.layout import STEP_BYTES
from mednext_jax.kernels.mosaic.taps import Taps, Term
from mednext_jax.ops.correlate import divisor_up_to

SUBLANES = 8
_CHANNELS = 16  # of one step: whole registers of bfloat16
_ROWS = 256  # of one product, so that a matrix is used often once it is loaded
_UNROLLED = 16


@dataclasses.dataclass(frozen=True)
class GridStep:
    """What one step of a depthwise kernel's grid (channel blocks, samples, blocks of planes) covers, and how it is cut.

    `planes` and `lines` count outputs of one phase; `lines` of a plane are those of one product.
    """

    taps: Taps
    channels: int
    blocks: int  # of channels
    planes: int
    lines: int
    dtype: jnp.dtype

    @classmethod
    def of(cls, taps: Taps, channels: int, dtype: jnp.dtype, targets: int) -> GridStep:
        """The step for `channels` in all, with so many arrays of the output's shape."""
        block = _CHANNELS if channels % _CHANNELS == 0 else channels
        planes = -(-taps.target.d // taps.target_steps[0])
        while True:
            step = cls(taps, block, channels // block, planes, SUBLANES, jnp.dtype(dtype))
            if planes == 1 or step._bytes(targets) <= STEP_BYTES:
                break
            planes = -(-planes // 2)
        padded = step.padded_lines // SUBLANES
        wanted = min(padded, -(-_ROWS // (SUBLANES * planes)))
        eights = next(count for count in range(wanted, padded + 1) if padded % count == 0)
        return dataclasses.replace(step, lines=SUBLANES * eights)

    @property
    def words(self) -> int:
        """Words of a line: its channels, two in a word of bfloat16."""
        return self.channels // self.per_word

    @property
    def per_word(self) -> int:
        """Channels of a word."""
        return 4 // self.dtype.itemsize

    @property
    def padded_lines(self) -> int:
        """Lines of one phase of an output plane, up to a multiple of what a register holds."""
        lines = -(-self.taps.target.groups // self.taps.target_steps[1])
        return -(-lines // SUBLANES) * SUBLANES

    @property
    def steps(self) -> int:
        """Blocks of planes."""
        return -(-self.taps.target.d // self.target_planes)

    @property
    def target_planes(self) -> int:
        """Output planes of a step."""
        return self.planes * self.taps.target_steps[0]

    @property
    def target_lines(self) -> int:
        """Lines of an output plane in words."""
        return self.padded_lines * self.taps.target_steps[1]

    @property
    def first_plane(self) -> int:
        """The first input plane that the first output plane reads; below 0 before the volume."""
        return min(term.plane for terms in self.taps.phases.values() for term in terms)

    @property
    def first_line(self) -> int:
        """The first line of an input plane that the first output line reads; at most 0."""
        return min(0, *(term.line for terms in self.taps.phases.values() for term in terms))

    @property
    def source_planes(self) -> int:
        """Input planes that a step reads."""
        last = max(term.plane for terms in self.taps.phases.values() for term in terms)
        return self.taps.source_steps[0] * (self.planes - 1) + last - self.first_plane + 1

    @property
    def source_lines(self) -> int:
        """Lines of an input plane in words, with the zeros around it."""
        last = max(term.line for terms in self.taps.phases.values() for term in terms)
        return max(
            self.taps.source_steps[1] * (self.padded_lines - 1) + last - self.first_line + 1,
            self.taps.source.groups - self.first_line,
        )

    def source_words(self) -> Any:
        """Scratch for the input in words."""
        return pltpu.VMEM((self.source_planes, self.source_lines * self.words, self.taps.source.lanes), jnp.uint32)

    def target_words(self) -> Any:
        """Scratch for the output in words."""
        return pltpu.VMEM((self.target_planes, self.target_lines * self.words, self.taps.target.lanes), jnp.uint32)

    def source_block(self) -> pl.BlockSpec:
        """The part of the input (n, d, groups, c, lanes) that a step reads; parts overlap and end at the volume's."""
        source, channels = self.taps.source, self.channels
        shape = 1, min(self.source_planes, source.d), source.groups, channels, source.lanes
        return pl.BlockSpec(
            tuple(pl.Element(size) for size in shape), lambda c, n, j: (n, self._start(j), 0, c * channels, 0)
        )

    def target_block(self) -> pl.BlockSpec:
        """The part of an array of the output's shape that is the step's own."""
        target = self.taps.target
        shape = 1, self.target_planes, target.groups, self.channels, target.lanes
        return pl.BlockSpec(shape, lambda c, n, j: (n, j, 0, c, 0))

    def take_source(self, x_ref: Any, words_ref: Any) -> None:
        """Copy a step's input into words, zeros where there is no plane; the lines around a plane are left."""
        j, source = pl.program_id(2), self.taps.source
        first = self.taps.source_steps[0] * self.planes * j + self.first_plane
        start = self._start(j)

        def plane(q: Array, _: None) -> None:
            here = (first + q >= 0) & (first + q < source.d)

            def line(h: Array) -> None:
                words_ref[q, self.at(h - self.first_line)] = to_words(x_ref[0, first + q - start, h])

            def clear() -> None:
                words_ref[q] = jnp.zeros_like(words_ref[q])

            pl.when(here)(lambda: each(source.groups, line))
            pl.when(jnp.logical_not(here))(clear)

        lax.fori_loop(0, self.source_planes, plane, None)

    def at(self, line: Array) -> Any:
        """Where the words of a line lie in a plane."""
        return pl.ds(pl.multiple_of(line * self.words, self.words), self.words)

    def source_rows(self, words_ref: Any, word: Array, block: Array) -> Callable[[Term, int], Array]:
        """The left sides of products: a term's (planes lines, lanes) of one of a word's channels, by block of lines."""
        steps = self.taps.source_steps
        read: dict[tuple[int, int], list[Array]] = {}
        packed: dict[tuple[int, int, tuple[int, ...]], Array] = {}

        def part(line: int, plane: int, channel: int) -> Array:
            if (line, plane) not in read:
                first = steps[1] * self.lines * block + line - self.first_line
                rows = _strided(words_ref, plane, first, self.lines, steps[1], self.words, word)
                read[line, plane] = channels_of(rows, self.dtype)
            return read[line, plane][channel]

        def rows(term: Term, channel: int) -> Array:
            planes = [steps[0] * m + term.plane - self.first_plane for m in range(self.planes)]
            together = 1 if self.lines % (SUBLANES * self.per_word) == 0 else self.per_word  # a register's worth
            parts = []
            for i in range(0, len(planes), together):
                some = tuple(planes[i : i + together])
                if (term.line, channel, some) not in packed:
                    lines = jnp.concatenate([part(term.line, plane, channel) for plane in some])
                    packed[term.line, channel, some] = lines.astype(self.dtype)
                parts.append(packed[term.line, channel, some])
            return jnp.concatenate(parts)

        return rows

    def target_rows(self, words_ref: Any, phase: tuple[int, int], word: Array, block: Array) -> list[Array]:
        """The phase's lines (planes lines, lanes) of each of a word's channels in float32, for a block of lines."""
        rows = [
            _strided(words_ref, plane, first, self.lines, self.taps.target_steps[1], self.words, word)
            for plane, first in self._target_places(phase, block)
        ]
        return channels_of(jnp.concatenate(rows), self.dtype)

    def put_target_rows(
        self, words_ref: Any, phase: tuple[int, int], word: Array, block: Array, channels: list[Array]
    ) -> None:
        """Write what `target_rows` reads."""
        step = self.taps.target_steps[1]
        rows = word_of(channels, self.dtype)
        for m, (plane, first) in enumerate(self._target_places(phase, block)):
            for i in range(0, self.lines, SUBLANES):
                where = pl.ds((first + step * i) * self.words + word, SUBLANES, stride=step * self.words)
                # The interpreter knows no single plane beside a distance between lines: a slice of one.
                words_ref[pl.ds(plane, 1), where] = rows[None, m * self.lines + i : m * self.lines + i + SUBLANES]

    def _target_places(self, phase: tuple[int, int], block: Array) -> list[tuple[int, Array]]:
        planes, lines = self.taps.target_steps
        return [(m * planes + phase[0], self.lines * block * lines + phase[1]) for m in range(self.planes)]

    def _start(self, j: Array) -> Array:
        """The first input plane of the j-th block."""
        first = self.taps.source_steps[0] * self.planes * j + self.first_plane
        return jnp.clip(first, 0, max(0, self.taps.source.d - self.source_planes))

    def _bytes(self, targets: int) -> int:
        """What the activations take of VMEM: blocks twice, since the next comes in meanwhile, and words."""
        source = (2 * self.taps.source.groups + self.source_lines) * self.source_planes * self.taps.source.lanes
        target = (2 * targets * self.taps.target.groups + self.target_lines) * self.target_planes
        return (source + target * self.taps.target.lanes) * self.channels * self.dtype.itemsize


def to_words(x: Array) -> Array:
    """(channels, lanes) -> (words, lanes) uint32."""
    return pltpu.bitcast(x, jnp.uint32)


def from_words(words: Array, dtype: jnp.dtype) -> Array:
    """(words, lanes) uint32 -> (channels, lanes)."""
    return pltpu.bitcast(words, dtype)


def channels_of(words: Array, dtype: jnp.dtype) -> list[Array]:
    """Each of a word's channels by itself, float32."""
    if dtype == jnp.float32:
        return [lax.bitcast_convert_type(words, jnp.float32)]
    return [lax.bitcast_convert_type(half, jnp.float32) for half in (words << 16, words & jnp.uint32(0xFFFF0000))]


def word_of(channels: list[Array], dtype: jnp.dtype) -> Array:
    """The inverse of `channels_of`, rounded to `dtype`."""
    bits = [lax.bitcast_convert_type(x.astype(dtype).astype(jnp.float32), jnp.uint32) for x in channels]
    return bits[0] if len(bits) == 1 else (bits[0] >> 16) | bits[1]


def each(count: int, body: Callable[[Array], None], most: int = 16) -> None:
    """Run `body` for 0 .. count - 1, up to `most` in one turn of a loop."""

    together = divisor_up_to(count, min(most, _UNROLLED))

    def turn(i: Array, _: None) -> None:
        for one in range(together):
            body(together * i + one)

    lax.fori_loop(0, count // together, turn, None)


def _strided(words_ref: Any, plane: int, first: Array, count: int, step: int, words: int, word: Array) -> Array:
    """One word of `count` lines from `first` on, `step` lines apart: (count, lanes)."""
    rows = [
        words_ref[pl.ds(plane, 1), pl.ds((first + step * i) * words + word, SUBLANES, stride=step * words)][0]
        for i in range(0, count, SUBLANES)
    ]
    return jnp.concatenate(rows)
