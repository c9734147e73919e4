"""Whole networks: inputs, a trunk of random layers, heads and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from hypothesis import strategies as st
from onnx import TensorProto

from tests.random_networks.images import conv, image_step, stage
from tests.random_networks.layers import (
    WIDTHS,
    Step,
    activation,
    batch_norm,
    channel_scale,
    glu,
    layer_norm,
    linear,
    part,
    unusual,
)
from tests.random_networks.net import Net, Tensor
from tests.random_networks.tokens import attention, token_step


@dataclass(frozen=True)
class Example:
    """A random network, and whether its batch is symbolic."""

    model: onnx.ModelProto
    dynamic: bool


@st.composite
def networks(draw: st.DrawFn) -> Example:
    """A random network of one to some fifteen layers."""
    net = Net(draw)
    trunk = net.pick(_images, _tokens, _vectors, _images_to_tokens, _words)
    last = trunk(net)
    outputs = [last]
    others = [t for t in net.seen if t != last and t not in outputs]
    if others and net.rarely():
        outputs.append(net.pick(*others))
    return Example(net.model(outputs), net.dynamic)


def _grow(net: Net, x: Tensor, step: Step, most: int) -> Tensor:
    for _ in range(net.number(1, most)):
        x = step(net, x)
        net.seen.append(x)
    return x


def _image_stem(net: Net) -> Tensor:
    height, width = net.pick((6, 6), (5, 4), (8, 8))
    image = net.input((net.batch, net.pick(3, 1), height, width))
    stem = conv(net, image, net.pick(*WIDTHS), kernel=3)
    net.seen.append(stem)
    if net.pick(False, True):  # here, as some runs draw hardly any among the steps
        stem = stage(net, stem)
        net.seen.append(stem)
    return stem


def _images(net: Net) -> Tensor:
    """A convolutional network, with a classifier or without; perhaps of two images."""
    x = _image_stem(net)
    if net.rarely():
        x = _join_images(net, x, _grow(net, _image_stem(net), image_step, 2))
    x = _grow(net, x, image_step, 12)
    return _image_head(net, x)


def _join_images(net: Net, x: Tensor, y: Tensor) -> Tensor:
    if x.shape[2:] != y.shape[2:]:
        pooled = [net.op("GlobalMaxPool", t) for t in (x, y)]
        gate = net.op("Sigmoid", conv(net, net.op("Concat", *pooled, axis=1), x.shape[1]))
        return net.op("Mul", x, gate)
    if net.pick(True, False):
        return net.op("Concat", x, y, axis=1)
    return net.op("Add", x, conv(net, y, x.shape[1]))


def _image_head(net: Net, x: Tensor) -> Tensor:
    form = net.pick("pooled", "mean", "flat", "reshaped", "image", "none")
    if form == "image":
        return conv(net, x, net.pick(2, 1))
    if form == "none":
        return x
    if form == "flat":
        return linear(net, net.op("Flatten", x, axis=1), 3)
    if form == "reshaped":
        n, c, h, w = x.shape
        return linear(net, net.reshape(x, n, c * h * w), 3)
    pooled = net.mean(x, [2, 3], keepdims=False) if form == "mean" else None
    return linear(net, pooled or net.op("Flatten", net.op("GlobalAveragePool", x), axis=1), 3)


def _images_to_tokens(net: Net) -> Tensor:
    """A vision transformer behind a convolutional stem."""
    x = _image_stem(net)
    if net.pick(True, False):
        x = _grow(net, x, image_step, 2)
    n, c, h, w = x.shape
    tokens = net.transpose(net.reshape(x, n, c, h * w), 0, 2, 1)
    return _token_head(net, _grow(net, tokens, token_step, 6))


def _tokens(net: Net) -> Tensor:
    """A transformer on vectors, perhaps with a second sequence that it attends to."""
    x = net.input((net.batch, net.pick(4, 5, 6), net.pick(4, 6, 3)))
    if not net.rarely():
        x = linear(net, x, net.pick(8, 6, 12, 4))
    net.seen.append(x)
    if net.rarely():
        memory = linear(net, net.input((net.batch, 3, 4)), net.pick(8, 6))
        x = net.op("Add", x, attention(net, x, memory))
    return _token_head(net, _grow(net, x, token_step, 8))


def _words(net: Net) -> Tensor:
    """A transformer on token ids; the table of embeddings may be the last matrix too."""
    ids = net.input((net.batch, 5), TensorProto.INT64)
    table = net.weight(net.pick(5, 7), net.pick(8, 6, 4), fan=1)
    width = table.shape[1]
    x = net.op("Gather", table, ids, axis=0)
    if net.pick(True, False):
        x = net.op("Add", x, net.noise(1, 5, width))
    net.seen.append(x)
    x = _grow(net, x, token_step, 6)
    if x.shape[2] == width and net.pick(True, False):
        return net.op("MatMul", x, net.transpose(table, 1, 0))
    return _token_head(net, x)


def _token_head(net: Net, x: Tensor) -> Tensor:
    form = net.pick("first", "mean", "every", "slice", "flat", "none")
    if form == "none":
        return x
    if form == "every":
        return linear(net, x, 3)
    if form == "mean":
        return linear(net, net.mean(x, [1], keepdims=False), 3)
    if form == "flat":
        return linear(net, net.op("Flatten", x, axis=1), 3)
    if form == "slice":
        first = net.op("Flatten", part(net, x, 1, 0, 1), axis=1)
    else:
        first = net.op("Gather", x, net.ints(0, scalar=True), axis=1)
    return linear(net, layer_norm(net, first) if net.pick(False, True) else first, 3)


def _vectors(net: Net) -> Tensor:
    """An MLP, perhaps of two inputs."""
    x = net.input((net.batch, net.pick(4, 6, 3)))
    if net.rarely():
        other = linear(net, net.input((net.batch, 3)), net.pick(*WIDTHS))
        x = net.op("Concat", linear(net, x, net.pick(*WIDTHS)), other, axis=1)
    x = _grow(net, linear(net, x, net.pick(*WIDTHS)), _vector_step, 12)
    return linear(net, x, 2) if net.pick(True, False) else x


def _vector_step(net: Net, x: Tensor) -> Tensor:
    """One layer of an MLP."""
    form = net.pick(
        *("linear", "activation", "residual", "concat", "norm", "scale", "gate"),
        *("bilinear", "skip", "heads", "outer", "unusual"),
    )
    width = x.shape[1]
    if form == "activation":
        return activation(net, x)
    if form == "residual":
        return net.op("Add", x, linear(net, activation(net, linear(net, x, net.pick(*WIDTHS))), width))
    if form == "concat" and width <= 16:
        return net.op("Concat", x, linear(net, x, net.pick(*WIDTHS)), axis=1)
    if form == "norm":
        return net.pick(batch_norm, layer_norm)(net, x)
    if form == "scale":
        return channel_scale(net, x, 1)
    if form == "gate":
        return glu(net, linear(net, x, 2 * net.pick(4, 3, 1)), 1)
    if form == "unusual":
        return unusual(net, x)
    if form == "outer" and width <= 5:
        return _outer(net, x, linear(net, x, net.pick(2, 3, 1)))
    if form == "bilinear":
        return net.op("Mul", linear(net, x, width), x)
    same = [t for t in net.seen if t.shape == x.shape and t != x]
    if form == "skip" and same:
        return net.op(net.pick("Add", "Sub", "Mul", "Min"), x, net.pick(*same))
    return _mixed_heads(net, x) if form == "heads" else linear(net, x, net.pick(*WIDTHS))


def _outer(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Every product of a unit of x and one of y."""
    products = net.op("Mul", net.unsqueeze(x, 2), net.unsqueeze(y, 1))
    return net.op("Flatten", products, axis=1)


def _mixed_heads(net: Net, x: Tensor) -> Tensor:
    """The width as a matrix, multiplied from one side, in one of two orders."""
    n, width = x.shape
    rows = net.pick(*(r for r in range(1, width + 1) if width % r == 0))
    grid = net.reshape(x, n, rows, width // rows)
    if net.pick(True, False):
        grid = net.transpose(grid, 0, 2, 1)
    mixed = linear(net, grid, net.pick(2, 3, 4))
    return net.reshape(mixed, n, mixed.shape[1] * mixed.shape[2])
