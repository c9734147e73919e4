"""Programs with the structure of known architectures, tables like measured ones, and seeded numbers.

A latency is a staircase in both widths (tiles of 16 by 32 channels), dearer off the grid of 8 as on real kernels, so
not monotone, with lognormal noise on every entry. The damage of a width is the summed worth of the units that are gone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.solve.problem import Budget, Choice, Gate, Link, Problem, Term

Floats = NDArray[np.float64]
_STAGES = (3, 4, 6, 3)  # blocks of ResNet-50 by stage; deeper networks keep the proportions
_DENSE = (6, 12, 24, 16)  # layers of DenseNet-121 by block


class Maker:
    """Collects the choices, blocks and terms of one program."""

    def __init__(self, seed: int, noise: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise = noise
        self.widths: dict[str, NDArray[np.int64]] = {}
        self.gates: list[Gate] = []
        self.links: list[Link] = []
        self.damage: list[Term] = []
        self.latency: list[Term] = []

    def choice(self, name: str, units: int, levels: int, gate: str | None = None, worth: float = 1.0) -> str:
        """A group of units with evenly spread widths, and its damage."""
        levels = min(levels, units)
        self.widths[name] = np.unique(np.round(units * np.arange(1, levels + 1) / levels).astype(np.int64))
        lost = np.concatenate(([0.0], np.cumsum(np.sort(self.rng.lognormal(0.0, 1.0, units)))))
        self.damage.append(Term((name,), worth * lost[units - self.widths[name]] / units, gate))
        return name

    def total(self, name: str, parts: Sequence[str]) -> str:
        """The width of a concat; every sum of its parts is a level."""
        sums = np.zeros(1, np.int64)
        for part in parts:
            sums = np.unique(np.add.outer(sums, self.widths[part]))
        self.widths[name] = sums
        self.links.append(Link(name, tuple((part, 1) for part in parts)))
        return name

    def block(self, name: str, worth: float) -> str:
        """A removable block."""
        self.gates.append(Gate(name))
        damage = worth * float(self.rng.lognormal(0.0, 0.7))
        self.damage += [Term((), np.array(damage)), Term((), np.array(-damage), name)]
        return name

    def layer(self, inputs: str | int, outputs: str | int, pixels: float, gate: str | None = None) -> None:
        """The latency of a convolution or linear layer; a number is a fixed width."""
        names = tuple(name for name in (inputs, outputs) if isinstance(name, str))
        first, second = (
            self.widths[width] if isinstance(width, str) else np.array([width]) for width in (inputs, outputs)
        )
        table = pixels * np.multiply.outer(_tiles(first, 16), _tiles(second, 32)) + 0.02 * pixels
        table = table * self.rng.lognormal(0.0, self.noise, table.shape)
        self.latency.append(Term(names, table.reshape([len(self.widths[name]) for name in names]), gate))

    def problem(self) -> Problem:
        """The program at the budget of the dense model."""
        choices = tuple(Choice(name, tuple(map(int, widths))) for name, widths in self.widths.items())
        dense = sum(float(np.ravel(term.table)[-1]) for term in self.latency)
        budget = Budget("latency", tuple(self.latency), dense)
        return Problem(choices, tuple(self.gates), tuple(self.links), tuple(self.damage), (budget,))


def resnet(convs: int, levels: int, maker: Maker) -> Problem:
    """A ResNet with bottleneck blocks: one stream per stage, two inner widths per block."""
    blocks = (convs - 6) // 3
    counts = [max(1, round(blocks * count / sum(_STAGES))) for count in _STAGES]
    counts[2] += blocks - sum(counts)
    stream = maker.choice("stem", 64, levels)
    maker.layer(3, stream, 16.0)
    for stage, count in enumerate(counts):
        units, pixels = 64 * 2**stage, 4.0 / 4**stage
        before, stream = stream, maker.choice(f"stage{stage}", 4 * units, levels, worth=float(count))
        maker.layer(before, stream, pixels)
        for i in range(count):
            name = f"stage{stage}.{i}"
            gate = maker.block(name, 1.5) if i else None
            first = maker.choice(f"{name}.conv1", units, levels, gate)
            second = maker.choice(f"{name}.conv2", units, levels, gate)
            maker.layer(stream if i else before, first, pixels, gate)
            maker.layer(first, second, 9 * pixels, gate)
            maker.layer(second, stream, pixels, gate)
    maker.layer(stream, 1000, 0.02)
    return maker.problem()


def deit(layers: int, levels: int, maker: Maker) -> Problem:
    """A vision transformer: one stream, and attention with one table over stream, heads and both head widths."""
    stream = maker.choice("stream", 768, levels, worth=float(layers))
    maker.layer(768, stream, 1.0)
    attention: Floats | None = None
    for i in range(layers):
        gate = maker.block(f"layer{i}.attention", 1.5)
        heads = maker.choice(f"layer{i}.heads", 12, levels, gate)
        keys = maker.choice(f"layer{i}.qk", 64, levels, gate)
        values = maker.choice(f"layer{i}.v", 64, levels, gate)
        names = (stream, heads, keys, values)
        if attention is None:  # layers of one shape share their table
            attention = _attention([maker.widths[name] for name in names])
            attention *= maker.rng.lognormal(0.0, maker.noise, attention.shape)
        maker.latency.append(Term(names, attention, gate))
        gate = maker.block(f"layer{i}.mlp", 1.5)
        hidden = maker.choice(f"layer{i}.hidden", 3072, levels, gate)
        maker.layer(stream, hidden, 1.0, gate)
        maker.layer(hidden, stream, 1.0, gate)
    maker.layer(stream, 1000, 0.02)
    return maker.problem()


def densenet(layers: int, levels: int, maker: Maker) -> Problem:
    """A DenseNet: every layer reads all before it in its block, and adds its growth."""
    counts = [max(1, round(layers * count / sum(_DENSE))) for count in _DENSE]
    stream = maker.choice("stem", 64, levels)
    maker.layer(3, stream, 16.0)
    for block, count in enumerate(counts):
        parts, pixels = [stream], 4.0 / 4**block
        total = stream
        for i in range(count):
            inner = maker.choice(f"block{block}.{i}.conv1", 128, levels)
            growth = maker.choice(f"block{block}.{i}.conv2", 32, levels)
            maker.layer(total, inner, pixels)
            maker.layer(inner, growth, 9 * pixels)
            parts.append(growth)
            total = maker.total(f"block{block}.{i}.concat", parts)
        stream = maker.choice(f"transition{block}", 128 * 2**block, levels)
        maker.layer(total, stream, pixels)
    maker.layer(stream, 1000, 0.02)
    return maker.problem()


def unet(depth: int, levels: int, maker: Maker) -> Problem:
    """A U-Net: every resolution of the encoder is concatenated to the decoder's, so skips nest."""
    skips, before = list[str](), 3 if depth else 0
    stream: str | int = before
    for i in range(depth):
        units, pixels = min(64 * 2**i, 512), 16.0 / 4 ** min(i, 4)
        inner, outer = (maker.choice(f"down{i}.{j}", units, levels) for j in range(2))
        maker.layer(stream, inner, 9 * pixels)
        maker.layer(inner, outer, 9 * pixels)
        stream = outer
        skips.append(outer)
    for i in reversed(range(depth - 1)):
        units, pixels = min(64 * 2**i, 512), 16.0 / 4 ** min(i, 4)
        both = maker.total(f"up{i}.concat", [skips[i], str(stream)])
        inner, outer = (maker.choice(f"up{i}.{j}", units, levels) for j in range(2))
        maker.layer(both, inner, 9 * pixels)
        maker.layer(inner, outer, 9 * pixels)
        stream = outer
    maker.layer(stream, 2, 16.0)
    return maker.problem()


FAMILIES: dict[str, Callable[[int, int, Maker], Problem]] = {
    "resnet": resnet,
    "deit": deit,
    "densenet": densenet,
    "unet": unet,
}


def make(family: str, size: int, levels: int, noise: float = 0.01) -> Problem:
    """A program of a family: `size` convolutions, layers or resolutions; the same arguments give the same program."""
    return FAMILIES[family](size, levels, Maker(zlib.crc32(f"{family}{size}L{levels}".encode()), noise))


def at_share(problem: Problem, share: float) -> Problem:
    """The program at a share of the dense latency."""
    (budget,) = problem.budgets
    return replace(problem, budgets=(replace(budget, limit=share * budget.limit),))


def limits_between(problem: Problem, count: int, low: float, high: float) -> list[float]:
    """Limits at evenly spread shares of the dense latency, the loosest first."""
    return [float(share) * problem.budgets[0].limit for share in np.linspace(high, low, count)]


def _tiles(widths: NDArray[np.int64], tile: int) -> Floats:
    """Tiles that a width takes, a third dearer off the grid of 8 channels."""
    return np.ceil(widths / tile) * np.where(widths % 8 == 0, 1.0, 1.33) * tile / 64


def _attention(widths: Sequence[NDArray[np.int64]]) -> Floats:
    """Projections in and out, and the products of queries with keys and of their softmax with values."""
    stream, heads, keys, values = np.ix_(*widths)
    both = np.ceil(heads * keys / 16) * 16
    inner = np.ceil(heads * values / 16) * 16
    projections = (2 * both + 2 * inner) * np.ceil(stream / 16) * 16
    return np.asarray((projections + 197.0 * (both + inner) + 197.0 * 30 * heads) / (64.0 * 64.0), np.float64)
