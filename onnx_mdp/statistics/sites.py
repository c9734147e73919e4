"""Sites: operators y = x W + b with one weight, seen as matrix products.

Whatever the operator, its input becomes rows of K columns, its weight matrices of K x O, for each of G groups of a
convolution. The columns of one input channel are next to each other: k*k of them for a convolution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.graph.network import Network, Node

Array = NDArray[Any]
Indices = NDArray[np.int64]
_ROWS, _ROWS_PER_COLUMN = 400_000, 8  # rows of a site: at most, and at least
_FEW = 8  # times a part's positions have to be looked at in all for all of its own to be among them
WORK = 1e10  # rows x columns^2 that moments are given


@dataclass(frozen=True)
class Site(ABC):
    """A node that is linear in one weight of its own.

    Attributes:
        node: the node.
        x: the tensor it reads.
        weight: the initializer.
        bias: the initializer that carries what is added to each output channel, if there is one.
        y: the tensor that holds the result with the bias added.
        subtracted: whether `bias` is the mean of a batch normalization behind the node, which subtracts it from `y`.
    """

    node: Node
    x: str
    weight: str
    bias: str | None
    y: str
    subtracted: bool

    @property
    @abstractmethod
    def x_axis(self) -> int:
        """The axis of `x` that is summed over, counted from the end if negative."""

    @property
    @abstractmethod
    def y_axis(self) -> int:
        """The axis of `y` that holds the output channels."""

    @abstractmethod
    def matrix(self, weight: Array) -> Array:
        """The weight as (G, K, O)."""

    @abstractmethod
    def weight_of(self, matrix: Array, like: Array) -> Array:
        """The inverse of `matrix`, in the shape and type of `like`."""

    @abstractmethod
    def rows(self, x: Array, picks: Indices) -> Array:
        """What each picked position sums up, in float32; (G, samples x picks, K)."""

    @abstractmethod
    def places(self, y: Array, picks: Indices) -> Array:
        """The output at each picked position, in float32; (G, samples x picks, O)."""

    @abstractmethod
    def positions(self, shape: tuple[int, ...]) -> int:
        """Positions in one sample of an output of that shape."""


@dataclass(frozen=True)
class VectorSite(Site):
    """A site whose rows are vectors along the last axis."""

    @property
    def x_axis(self) -> int:
        """The last one."""
        return -1

    @property
    def y_axis(self) -> int:
        """The last one."""
        return -1

    def positions(self, shape: tuple[int, ...]) -> int:
        """All axes between the first and the last."""
        return math.prod(shape[1:-1])


@dataclass(frozen=True)
class ProductSite(VectorSite):
    """MatMul or Gemm with a matrix as right operand. `scale` is what Gemm multiplies the product with."""

    transposed: bool = False
    scale: float = 1.0

    def matrix(self, weight: Array) -> Array:
        """One group."""
        return ((weight.T if self.transposed else weight) * np.float64(self.scale))[None]

    def weight_of(self, matrix: Array, like: Array) -> Array:
        """Undo `matrix`."""
        values = matrix[0] / self.scale
        return np.asarray(values.T if self.transposed else values, like.dtype)

    def rows(self, x: Array, picks: Indices) -> Array:
        """Vectors along the last axis."""
        return picked_vectors(x, picks)

    def places(self, y: Array, picks: Indices) -> Array:
        """Vectors along the last axis."""
        return picked_vectors(y, picks)


def picked_vectors(values: Array, picks: Indices) -> Array:
    """Vectors along the last axis at the picked positions of every sample, in float32; (1, samples x picks, size)."""
    rows = values.reshape(len(values), -1, values.shape[-1])[:, picks].astype(np.float32, copy=False)
    return rows.reshape(1, -1, values.shape[-1])


@dataclass(frozen=True)
class ConvSite(Site):
    """Conv, grouped or not: a row is the window of one group's channels at one position."""

    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def x_axis(self) -> int:
        """The channels."""
        return 1

    @property
    def y_axis(self) -> int:
        """The channels."""
        return 1

    def matrix(self, weight: Array) -> Array:
        """Weights are (G*O, I, *kernel)."""
        return np.asarray(weight.reshape(self.groups, len(weight) // self.groups, -1).swapaxes(1, 2), np.float64)

    def weight_of(self, matrix: Array, like: Array) -> Array:
        """Undo `matrix`."""
        return np.ascontiguousarray(matrix.swapaxes(1, 2)).reshape(like.shape).astype(like.dtype)

    def rows(self, x: Array, picks: Indices) -> Array:
        """Windows of the padded input."""
        return self._windows(self._padded(x), picks)

    def places(self, y: Array, picks: Indices) -> Array:
        """Pixels of the output."""
        pixels = y.reshape(len(y), self.groups, y.shape[1] // self.groups, -1)[..., picks]
        return _grouped(pixels.transpose(1, 0, 3, 2))

    def positions(self, shape: tuple[int, ...]) -> int:
        """All pixels of the output."""
        return math.prod(shape[2:])

    def _padded(self, x: Array) -> Array:
        rank = len(self.kernel)
        return np.pad(x, [(0, 0), (0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)])

    def _windows(self, x: Array, picks: Indices) -> Array:
        """Windows of an input that needs no more padding."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        axes = tuple(range(2, x.ndim))
        view = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
        steps: list[Any] = [slice(None), slice(None), *(slice(None, None, n) for n in (*self.strides, *self.dilations))]
        view = view[tuple(steps)]
        where = np.unravel_index(picks, view.shape[2 : x.ndim])
        windows = view[(slice(None), slice(None), *where)]  # samples, channels, picks, *kernel
        channels = x.shape[1] // self.groups
        split = windows.reshape(len(x), self.groups, channels, len(picks), -1)
        return _grouped(split.transpose(1, 0, 3, 2, 4).reshape(self.groups, len(x), len(picks), -1))


def _grouped(values: Array) -> Array:
    """(G, samples, picks, columns) as (G, rows, columns)."""
    rows = values.reshape(values.shape[0], -1, values.shape[-1])
    return np.ascontiguousarray(rows, np.float32)


@dataclass(frozen=True)
class TransposedSite(ConvSite):
    """ConvTranspose: a Conv with the kernel reversed over an input with zeros between its pixels.

    `extra` is the output padding, `upsample` the strides; those of the Conv it stands for are one.
    """

    upsample: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()

    def matrix(self, weight: Array) -> Array:
        """Weights are (G*I, O, *kernel)."""
        reversed_ = np.flip(weight, tuple(range(2, weight.ndim)))
        split = reversed_.reshape(self.groups, len(weight) // self.groups, weight.shape[1], -1)
        columns = split.transpose(0, 1, 3, 2)  # G, I, kernel, O
        return np.asarray(columns.reshape(self.groups, -1, weight.shape[1]), np.float64)

    def weight_of(self, matrix: Array, like: Array) -> Array:
        """Undo `matrix`."""
        window = math.prod(self.kernel)
        columns = matrix.reshape(self.groups, -1, window, like.shape[1]).transpose(0, 1, 3, 2)
        return np.flip(columns.reshape(like.shape), tuple(range(2, like.ndim))).astype(like.dtype)

    def _padded(self, x: Array) -> Array:
        rank = len(self.kernel)
        spread = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], self.upsample, strict=True)]
        wide = np.zeros((*x.shape[:2], *spread), x.dtype)
        wide[(slice(None), slice(None), *(slice(None, None, step) for step in self.upsample))] = x
        span = [(k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True)]
        before = [s - p for s, p in zip(span, self.pads[:rank], strict=True)]
        after = [s - p + e for s, p, e in zip(span, self.pads[rank:], self.extra, strict=True)]
        wide = np.pad(wide, [(0, 0), (0, 0), *((max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True))])
        cut = tuple(
            slice(max(-b, 0), size - max(-a, 0)) for b, a, size in zip(before, after, wide.shape[2:], strict=True)
        )
        return wide[(slice(None), slice(None), *cut)]


def bias_of(site: Site, weights: Mapping[str, Array], shape: tuple[int, int, int]) -> Array:
    """What a site adds to each output channel; (G, O) for a matrix of the given shape."""
    if site.bias is None or site.subtracted:
        return np.zeros((shape[0], shape[2]))
    return np.asarray(weights[site.bias], np.float64).reshape(shape[0], shape[2])


def carried_bias(site: Site, before: Array, bias: Array) -> Array:
    """The values of the initializer that carries the bias, for a new bias."""
    values = bias.reshape(before.shape)
    return np.asarray(before - values if site.subtracted else values, before.dtype)


def choose_picks(
    site: Site,
    positions: int,
    shape: tuple[int, int, int],
    samples: int,
    work: float = WORK,
    parts: Sequence[Indices] = (),
) -> Indices:
    """Positions of every sample to look at: all, unless that is more work than the moments need.

    Args:
        site: seeds the choice.
        positions: in one sample.
        shape: of the site's matrix.
        samples: over which moments are taken.
        work: rows times squared columns to spend.
        parts: positions by where they come from: small parts are looked at whole.
    """
    groups, columns, _ = shape
    most = min(_ROWS, work / (groups * (columns + 1) ** 2))
    rows = max(most, _ROWS_PER_COLUMN * (columns + 1))
    count = min(positions, max(1, int(rows / max(samples, 1))))
    rng = np.random.default_rng(site.node.index)
    if count >= positions:
        return np.arange(positions)
    few = [part for part in parts if _FEW * len(part) <= count]
    always = np.concatenate([*few, np.empty(0, np.int64)]).astype(np.int64)
    others = np.setdiff1d(np.arange(positions), always)
    return np.sort(np.concatenate([always, rng.choice(others, count - len(always), replace=False)]))


def find_sites(network: Network) -> tuple[Site, ...]:
    """Every site of a network, in graph order; weights that several nodes read have none."""
    return tuple(site for node in network.nodes if (site := _site(network, node)))


def _site(network: Network, node: Node) -> Site | None:
    if len(node.inputs) < 2 or node.domain not in ("", "ai.onnx") or not is_owned(network, node.inputs[1]):
        return None
    if node.inputs[0] not in network.varying or node.inputs[0] not in network.shapes:
        return None
    if node.op in ("Conv", "ConvTranspose"):
        return _convolution(network, node)
    return _product(network, node) if node.op in ("MatMul", "Gemm") else None


def is_owned(network: Network, name: str) -> bool:
    """Whether one node alone reads it, as a weight."""
    return network.is_float_weight(name) and len(network.consumers[name]) == 1 and name not in network.outputs


def _product(network: Network, node: Node) -> Site | None:
    scale, x, weight = float(node.attributes.get("alpha", 1.0)), *node.inputs[:2]
    if len(network.shapes[weight]) != 2 or node.attributes.get("transA", 0) or not scale:
        return None
    transposed = bool(node.attributes.get("transB", 0))
    if node.op == "Gemm":
        added = node.inputs[2] if len(node.inputs) > 2 else ""
        fits = (
            added and is_owned(network, added) and _is_row(network, added) and node.attributes.get("beta", 1.0) == 1.0
        )
        if added and not fits:
            return None
        return ProductSite(node, x, weight, added or None, node.outputs[0], False, transposed, scale)
    bias, y = added_vector(network, node.outputs[0]) or (None, node.outputs[0])
    return ProductSite(node, x, weight, bias, y, False)


def _is_row(network: Network, name: str) -> bool:
    shape = network.shapes[name]
    return bool(shape) and math.prod(shape) == shape[-1]


def added_vector(network: Network, tensor: str) -> tuple[str, str] | None:
    """The vector that the only reader of a tensor adds along its last axis, and the sum."""
    readers = network.consumers.get(tensor, ())
    if len(readers) != 1 or readers[0].op != "Add" or tensor in network.outputs:
        return None
    other = next((name for name in readers[0].inputs if name != tensor), "")
    width = network.shapes[tensor][-1]
    if not is_owned(network, other) or not _is_row(network, other) or network.shapes[other][-1] != width:
        return None
    return other, readers[0].outputs[0]


def _mean(network: Network, tensor: str) -> str | None:
    """The mean that a batch normalization, the only reader of a tensor, subtracts from it."""
    readers = network.consumers.get(tensor, ())
    if len(readers) != 1 or readers[0].op != "BatchNormalization" or readers[0].attributes.get("training_mode", 0):
        return None
    return readers[0].inputs[3] if is_owned(network, readers[0].inputs[3]) else None


def _convolution(network: Network, node: Node) -> Site | None:
    weight, rank = node.inputs[1], len(network.shapes[node.inputs[1]]) - 2
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else None
    if (bias and not is_owned(network, bias)) or "output_shape" in node.attributes:
        return None

    def numbers(name: str, default: int, count: int = rank) -> tuple[int, ...]:
        return tuple(node.attributes.get(name, [default] * count))

    strides, kernel = numbers("strides", 1), tuple(network.shapes[weight][2:])
    dilations, pads, groups = numbers("dilations", 1), numbers("pads", 0, 2 * rank), node.attributes.get("group", 1)
    same = node.attributes.get("auto_pad", "NOTSET")
    if same.startswith("SAME"):
        if node.op != "Conv":
            return None
        sizes = network.shapes[node.inputs[0]][2:]
        pads = _same(sizes, kernel, strides, dilations, upper=same.endswith("UPPER"))
    mean = None if bias else _mean(network, node.outputs[0])
    basic = (node, node.inputs[0], weight, bias or mean, node.outputs[0], mean is not None, groups, kernel)
    if node.op == "Conv":
        return ConvSite(*basic, strides, dilations, pads)
    return TransposedSite(*basic, (1,) * rank, dilations, pads, strides, numbers("output_padding", 0))


def _same(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    *,
    upper: bool,
) -> tuple[int, ...]:
    """The pads that make as many windows as there are strides in the input."""
    totals = [
        max((-(-size // step) - 1) * step + (k - 1) * d + 1 - size, 0)
        for size, k, step, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (*small, *large) if upper else (*large, *small)
