"""Layers of transformers, on [batch, tokens, width]."""

from __future__ import annotations

import math

import numpy as np

from tests.random_networks.layers import (
    WIDTHS,
    Step,
    activation,
    channel_scale,
    glu,
    halves,
    layer_norm,
    linear,
    part,
    unusual,
)
from tests.random_networks.net import Net, Tensor

Heads = tuple[Tensor, Tensor, Tensor]


def attention(net: Net, x: Tensor, memory: Tensor | None = None) -> Tensor:
    """Attention of x over itself, or over `memory`; the output has x's width."""
    heads, width = net.pick(2, 3, 4, 1), net.pick(4, 2, 3, 1)
    if net.opset >= 23 and net.pick(False, True):
        return _fused(net, x, memory or x, heads, width)
    forms = (
        [separate, split, gathered, interleaved, shared_heads, stacked] if memory is None else [separate, shared_heads]
    )
    q, k, v = net.pick(*forms)(net, x, memory or x, heads, width)
    scores = _scored(net, q, k)
    if memory is None and net.pick(False, True):
        scores = net.op("Add", scores, _position_bias(net, heads, x.shape[1]))
    if memory is None and net.rarely():
        scores = _causal(net, scores)
    mixed = net.transpose(net.op("MatMul", net.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    n, t, h, d = mixed.shape
    return linear(net, net.reshape(mixed, n, t, h * d), x.shape[2])


def _fused(net: Net, x: Tensor, memory: Tensor, heads: int, width: int) -> Tensor:
    """One operator for all of it."""
    shared = net.pick(*(s for s in range(1, heads + 1) if heads % s == 0))
    q, k, v = linear(net, x, heads * width), linear(net, memory, shared * width), linear(net, memory, shared * width)
    mixed = net.op("Attention", q, k, v, shape=q.shape, q_num_heads=heads, kv_num_heads=shared)
    return linear(net, mixed, x.shape[2])


def _scored(net: Net, q: Tensor, k: Tensor) -> Tensor:
    scale = 1 / math.sqrt(q.shape[-1])
    if net.opset >= 13 and net.rarely():
        return net.op("Einsum", net.op("Mul", q, net.scalar(scale)), k, equation="bhid,bhjd->bhij")
    turned = net.transpose(k, 0, 1, 3, 2)
    form = net.pick("query", "both", "scores")
    if form == "scores":
        return net.op("Div", net.op("MatMul", q, turned), net.scalar(1 / scale))
    if form == "query":
        return net.op("MatMul", net.op("Mul", q, net.scalar(scale)), turned)
    root = net.scalar(math.sqrt(scale))
    return net.op("MatMul", net.op("Mul", q, root), net.op("Mul", turned, root))


def _by_heads(net: Net, x: Tensor, heads: int) -> Tensor:
    n, t, d = x.shape
    return net.transpose(net.reshape(x, n, t, heads, d // heads), 0, 2, 1, 3)


def separate(net: Net, x: Tensor, memory: Tensor, heads: int, width: int) -> Heads:
    """Three matrices; values may have a width of their own."""
    widths = (width, width, net.pick(width, 2, 3))
    sources = (x, memory, memory)
    q, k, v = (_by_heads(net, linear(net, s, heads * d), heads) for s, d in zip(sources, widths, strict=True))
    return q, k, v


def split(net: Net, x: Tensor, memory: Tensor, heads: int, width: int) -> Heads:
    """One matrix, cut into three along its outputs."""
    packed = linear(net, x, 3 * heads * width)
    if net.pick(True, False):
        parts = net.split(packed, 2, [heads * width] * 3)
    else:
        parts = [part(net, packed, 2, i * heads * width, (i + 1) * heads * width) for i in range(3)]
    q, k, v = (_by_heads(net, p, heads) for p in parts)
    return q, k, v


def gathered(net: Net, x: Tensor, memory: Tensor, heads: int, width: int) -> Heads:
    """One matrix, reshaped to have an axis of three in front of the heads."""
    n, t, _ = x.shape
    packed = net.reshape(linear(net, x, 3 * heads * width), n, t, 3, heads, width)
    front = net.transpose(packed, 2, 0, 3, 1, 4)
    if net.pick(True, False):
        q, k, v = (net.op("Gather", front, net.ints(i, scalar=True), axis=0) for i in range(3))
    else:
        parts = net.split(front, 0, (1, 1, 1))
        q, k, v = (net.squeeze(p, 0) for p in parts)
    return q, k, v


def interleaved(net: Net, x: Tensor, memory: Tensor, heads: int, width: int) -> Heads:
    """One matrix whose outputs are, head by head, query, key and value."""
    n, t, _ = x.shape
    packed = linear(net, x, 3 * heads * width)
    if net.pick(True, False):
        rows = net.reshape(packed, n, t, heads, 3 * width)
        parts = net.split(rows, 3, (width, width, width))
    else:
        rows = net.reshape(packed, n, t, heads, 3, width)
        parts = [net.squeeze(p, 3) for p in net.split(rows, 3, (1, 1, 1))]
        if net.pick(True, False):
            parts = [net.op("Gather", rows, net.ints(i, scalar=True), axis=3) for i in range(3)]
    q, k, v = (net.transpose(p, 0, 2, 1, 3) for p in parts)
    return q, k, v


def stacked(net: Net, x: Tensor, memory: Tensor, heads: int, width: int) -> Heads:
    """Every head has matrices of its own, stacked."""
    apart = net.unsqueeze(x, 1)

    def project(_: int) -> Tensor:
        w = net.weight(heads, x.shape[2], width, fan=x.shape[2])
        return net.op("Add", net.op("MatMul", apart, w), net.noise(heads, 1, width))

    q, k, v = map(project, range(3))
    return q, k, v


def shared_heads(net: Net, x: Tensor, memory: Tensor, heads: int, width: int) -> Heads:
    """Grouped-query attention: keys and values of fewer heads are expanded."""
    shared = net.pick(*(s for s in range(1, heads + 1) if heads % s == 0))
    q = _by_heads(net, linear(net, x, heads * width), heads)
    k, v = (_expanded(net, _by_heads(net, linear(net, memory, shared * width), shared), heads) for _ in range(2))
    return q, k, v


def _expanded(net: Net, x: Tensor, heads: int) -> Tensor:
    n, shared, t, d = x.shape
    apart = net.unsqueeze(x, 2)
    shape = (n, shared, heads // shared, t, d)
    return net.reshape(net.op("Expand", apart, net.batch_shape(x, shape), shape=shape), n, heads, t, d)


def _position_bias(net: Net, heads: int, tokens: int) -> Tensor:
    """One number for each head and pair of tokens, stored as such or picked from a table."""
    if net.pick(True, False):
        return net.noise(1, heads, tokens, tokens)
    table = net.noise(7, heads)
    picked = net.op("Gather", table, net.random_integers(7, tokens * tokens), axis=0)
    square = net.op("Reshape", picked, net.ints(tokens, tokens, heads))
    return net.unsqueeze(net.transpose(square, 2, 0, 1), 0)


def _causal(net: Net, scores: Tensor) -> Tensor:
    t = scores.shape[-1]
    mask = np.triu(np.full((1, 1, t, t), -10, np.float32), 1)
    return net.op("Add", scores, net.constant(mask, "mask"))


def merged_heads(net: Net, x: Tensor) -> Tensor:
    """PyTorch's MultiheadAttention: tokens first, the batch merged with the heads."""
    _, t, d = x.shape
    heads, width = net.pick(2, 3, 1), net.pick(4, 2, 3)
    first = net.transpose(x, 1, 0, 2)

    def part_of(_: int) -> Tensor:
        rows = linear(net, first, heads * width)
        return net.transpose(net.op("Reshape", rows, net.ints(t, -1, width)), 1, 0, 2)

    q, k, v = map(part_of, range(3))
    scores = net.op("MatMul", q, net.transpose(k, 0, 2, 1))
    mixed = net.transpose(net.op("MatMul", net.op("Softmax", scores, axis=-1), v), 1, 0, 2)
    rows = net.op("Reshape", mixed, net.ints(t, -1, heads * width))
    return linear(net, net.transpose(rows, 1, 0, 2), d)


def linear_attention(net: Net, x: Tensor) -> Tensor:
    """Keys and values contract over the tokens first; queries and keys pass an activation that may not keep zero."""
    heads, width = net.pick(2, 1, 3), net.pick(3, 4, 2)
    q, k, v = separate(net, x, x, heads, width)
    q, k = activation(net, q), activation(net, k)
    context = net.op("MatMul", net.transpose(k, 0, 1, 3, 2), v)
    mixed = net.transpose(net.op("MatMul", q, context), 0, 2, 1, 3)
    n, t, h, d = mixed.shape
    return linear(net, net.reshape(mixed, n, t, h * d), x.shape[2])


def mlp(net: Net, x: Tensor) -> Tensor:
    """Two matrices and an activation, perhaps gated."""
    form = net.pick("plain", "packed gate", "gate")
    width = net.pick(8, 6, 3, 12, 1)
    if form == "packed gate":
        inner = glu(net, linear(net, x, 2 * width), 2)
    else:
        inner = activation(net, linear(net, x, width))
        if form == "gate":
            inner = net.op("Mul", inner, linear(net, x, width))
    return linear(net, inner, x.shape[2])


def token_mixing(net: Net, x: Tensor) -> Tensor:
    """MLP-Mixer: an MLP over the tokens."""
    turned = net.transpose(x, 0, 2, 1)
    inner = activation(net, linear(net, turned, net.pick(6, 3, 8)))
    return net.transpose(linear(net, inner, x.shape[1]), 0, 2, 1)


def convolution(net: Net, x: Tensor) -> Tensor:
    """A convolution over the tokens, plain or depthwise."""
    d = x.shape[2]
    group = net.pick(d, 1)
    w = net.weight(d, d // group, 3, fan=3 * d // group)
    bias = [net.vector(d)] if net.pick(True, False) else []
    y = net.op("Conv", net.transpose(x, 0, 2, 1), w, *bias, pads=[1, 1], group=group)
    return net.transpose(y, 0, 2, 1)


def rotary(net: Net, x: Tensor) -> Tensor:
    """Rotates the halves of each head against each other, as rotary embeddings do."""
    n, t, d = x.shape
    y = linear(net, x, 2 * net.pick(2, 3) * 2)
    rows = net.reshape(y, n, t, 2, y.shape[2] // 2)
    a, b = halves(net, rows, 3)
    turned = net.op("Concat", net.op("Neg", b), a, axis=3)
    tables = [net.noise(1, t, 1, rows.shape[3]) for _ in range(2)]
    mixed = net.op("Add", net.op("Mul", rows, tables[0]), net.op("Mul", turned, tables[1]))
    return linear(net, net.reshape(mixed, *y.shape), d)


def block(net: Net, x: Tensor) -> Tensor:
    """A residual branch with the norm before, after, or without one."""
    body: Step = net.pick(attention, mlp, merged_heads, token_mixing, linear_attention, convolution, rotary)
    form = net.pick("before", "without", "after")
    y = body(net, layer_norm(net, x) if form == "before" else x)
    if net.rarely():
        y = channel_scale(net, y, 2)
    total = net.op("Add", *net.pick((x, y), (y, x)))
    return layer_norm(net, total) if form == "after" else total


def projection(net: Net, x: Tensor) -> Tensor:
    """A change of width."""
    return linear(net, x, net.pick(*WIDTHS))


def class_token(net: Net, x: Tensor) -> Tensor:
    """A learned token in front of the others, then positions added to all of them."""
    n, t, d = x.shape
    token = net.noise(1, 1, d)
    shape = (n, 1, d)
    wide = net.op("Expand", token, net.batch_shape(x, shape), shape=shape)
    tokens = net.op("Concat", wide, x, axis=1)
    return net.op("Add", tokens, net.noise(1, t + 1, d)) if net.pick(True, False) else tokens


def merging(net: Net, x: Tensor) -> Tensor:
    """Swin's patch merging: neighbors are put side by side."""
    n, t, d = x.shape
    if t % 2 or d > 12:
        return projection(net, x)
    if net.pick(True, False):
        return linear(net, net.reshape(x, n, t // 2, 2 * d), d)
    both = [part(net, x, 1, i, 2**63 - 1, 2) for i in (0, 1)]
    return linear(net, net.op("Concat", *both, axis=2), d)


def cross(net: Net, x: Tensor) -> Tensor:
    """Attention over an earlier sequence, or an earlier tensor added."""
    others = [t for t in net.seen if len(t.shape) == 3 and t != x]
    if not others:
        return block(net, x)
    other = net.pick(*others)
    if other.shape == x.shape and net.pick(True, False):
        return net.op("Add", x, other)
    return net.op("Add", x, attention(net, x, other))


def join(net: Net, x: Tensor) -> Tensor:
    """An earlier tensor with as many tokens, put beside this one."""
    near = [t for t in net.seen if len(t.shape) == 3 and t.shape[1] == x.shape[1] and t != x and t.shape[2] < 16]
    return net.op("Concat", x, net.pick(*near), axis=2) if near and x.shape[2] < 16 else projection(net, x)


STEPS: tuple[Step, ...] = (
    *(block, block, block, projection, attention, mlp, layer_norm, activation, class_token, merging, cross, join),
    *(unusual, lambda net, x: channel_scale(net, x, 2)),
)


def token_step(net: Net, x: Tensor) -> Tensor:
    """One layer."""
    if x.shape[1] > 12:
        x = part(net, x, 1, 0, 6)
    return net.pick(*STEPS)(net, x)
