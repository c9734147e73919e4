"""Layers of convolutional networks, on [batch, channels, height, width]."""

from __future__ import annotations

import numpy as np

from tests.random_networks.layers import (
    WIDTHS,
    Step,
    activation,
    batch_norm,
    channel_scale,
    glu,
    halves,
    layer_norm,
    linear,
    part,
    unusual,
)
from tests.random_networks.net import Net, Tensor

WIDEST = 24


def conv(net: Net, x: Tensor, out: int, *, kernel: int = 1, group: int = 1, stride: int = 1) -> Tensor:
    """A convolution that keeps the size at stride one."""
    w = net.weight(out, x.shape[1] // group, kernel, kernel, fan=x.shape[1] // group * kernel**2)
    if net.rarely():  # weight normalization
        w = net.op("Mul", w, net.vector(out, 0.5, 1.5, trailing=3))
    bias = [net.vector(out)] if net.pick(True, False) else []
    window = {"auto_pad": "SAME_UPPER"} if net.rarely() else {"pads": [kernel // 2] * 4}
    return net.op("Conv", x, w, *bias, group=group, strides=[stride, stride], **window)


def plain(net: Net, x: Tensor) -> Tensor:
    """A convolution of any width."""
    return conv(net, x, net.pick(*WIDTHS), kernel=net.pick(1, 3))


def grouped(net: Net, x: Tensor) -> Tensor:
    """A convolution in groups; depthwise where there are as many as channels, perhaps with a multiplier."""
    groups = net.pick(*(g for g in range(x.shape[1], 0, -1) if x.shape[1] % g == 0))
    return conv(net, x, groups * net.pick(*(m for m in (1, 2, 3) if groups * m <= WIDEST)), kernel=3, group=groups)


def normalized(net: Net, x: Tensor) -> Tensor:
    """One of the normalizations."""
    return net.pick(batch_norm, batch_norm, instance_norm, group_norm, channels_last_norm, volume_norm)(net, x)


def instance_norm(net: Net, x: Tensor) -> Tensor:
    """Over space, for every channel."""
    c = x.shape[1]
    return net.op("InstanceNormalization", x, net.vector(c, 0.5, 1.5), net.vector(c), epsilon=1e-2)


def group_norm(net: Net, x: Tensor) -> Tensor:
    """As PyTorch exports it: an instance norm of the groups between two reshapes; or as one operator."""
    n, c, h, w = x.shape
    groups = net.pick(*(g for g in range(1, c + 1) if c % g == 0))
    if net.opset >= 21 and net.pick(True, False):
        scales = net.vector(c, 0.5, 1.5), net.vector(c)
        return net.op("GroupNormalization", x, *scales, shape=x.shape, num_groups=groups, epsilon=1e-2)
    ones, zeros = net.constant(np.ones(groups, np.float32)), net.constant(np.zeros(groups, np.float32))
    flat = net.reshape(x, n, groups, c // groups * h * w)
    normal = net.op("InstanceNormalization", flat, ones, zeros, epsilon=1e-2)
    scaled = net.op("Mul", net.reshape(normal, n, c, h, w), net.vector(c, 0.5, 1.5, trailing=2))
    return net.op("Add", scaled, net.vector(c, trailing=2))


def channels_last_norm(net: Net, x: Tensor) -> Tensor:
    """ConvNeXt's: a layer norm between two transposes."""
    return net.transpose(layer_norm(net, net.transpose(x, 0, 2, 3, 1)), 0, 3, 1, 2)


def volume_norm(net: Net, x: Tensor) -> Tensor:
    """A layer norm over channels and space together."""
    if net.opset < 17:
        return group_norm(net, x)
    return net.op("LayerNormalization", x, net.noise(*x.shape[1:]), axis=1, epsilon=1e-2)


def squeeze_excite(net: Net, x: Tensor) -> Tensor:
    """Channel attention, with convolutions or with matrices."""
    n, c = x.shape[:2]
    inner = net.pick(4, 2, 6, 1)
    pooled = net.op("GlobalAveragePool", x) if net.pick(True, False) else net.mean(x, [2, 3], keepdims=True)
    if net.pick(True, False):
        y = conv(net, net.op("Relu", conv(net, pooled, inner)), c)
    else:
        flat = net.op("Flatten", pooled, axis=1) if net.pick(True, False) else net.reshape(pooled, n, c)
        dense = linear(net, net.op("Relu", linear(net, flat, inner)), c)
        wide = net.pick(True, False)
        y = net.unsqueeze(dense, 2, 3) if wide else net.reshape(dense, n, c, 1, 1)
    gate = net.op(net.pick("Sigmoid", "HardSigmoid"), y)
    return net.op("Mul", *net.pick((x, gate), (gate, x)))


def dense_block(net: Net, x: Tensor) -> Tensor:
    """DenseNet: what was there, then what is new; perhaps several branches, or the same tensor twice."""
    new = [activation(net, plain(net, x)) for _ in range(net.number(1, 2))]
    return net.op("Concat", *net.pick([x, *new], [*new, x], [*new, *new], [x, *new, x]), axis=1)


def gate(net: Net, x: Tensor) -> Tensor:
    """A gated convolution."""
    return glu(net, conv(net, x, 2 * net.pick(4, 3, 6, 1)), 1)


def partial(net: Net, x: Tensor) -> Tensor:
    """ShuffleNet or FasterNet: one part of the channels is worked on, the others pass or are dropped."""
    c = x.shape[1]
    if c < 2:
        return plain(net, x)
    if c % 2 == 0 and net.pick(True, False):
        a, b = halves(net, x, 1)
    else:
        at = net.number(1, c - 1)
        a, b = part(net, x, 1, 0, at), part(net, x, 1, at, net.pick(c, 2**63 - 1))
    b = activation(net, plain(net, b))
    return net.op("Concat", *net.pick([a, b], [b, a], [b]), axis=1)


def spatial_attention(net: Net, x: Tensor) -> Tensor:
    """What all channels agree on weighs each pixel."""
    kind = net.pick("ReduceMean", "ReduceMax", "ReduceSum")
    gate = conv(net, net.reduced(kind, x, 1), 1, kernel=3)
    return net.op("Mul", x, net.op("Sigmoid", gate))


def shuffle(net: Net, x: Tensor) -> Tensor:
    """Channel shuffle."""
    n, c, h, w = x.shape
    groups = net.pick(*(g for g in range(c, 0, -1) if c % g == 0))
    split = net.reshape(x, n, groups, c // groups, h, w)
    return net.reshape(net.transpose(split, 0, 2, 1, 3, 4), n, c, h, w)


def pixel_shuffle(net: Net, x: Tensor) -> Tensor:
    """Channels become space and space channels, so that the size stays."""
    n, _, h, w = x.shape
    c = net.pick(2, 3, 1)
    x = conv(net, x, 4 * c)
    if net.pick(True, False):
        wide = net.reshape(net.transpose(net.reshape(x, n, c, 2, 2, h, w), 0, 1, 4, 2, 5, 3), n, c, 2 * h, 2 * w)
    else:
        wide = net.op("DepthToSpace", x, blocksize=2, mode=net.pick("CRD", "DCR"))
    wide = activation(net, wide)
    if net.pick(True, False):
        return focus(net, wide)
    blocks = net.reshape(wide, n, c, h, 2, w, 2)
    return net.reshape(net.transpose(blocks, 0, 1, 3, 5, 2, 4), n, 4 * c, h, w)


def focus(net: Net, x: Tensor) -> Tensor:
    """Every second pixel of space becomes a channel, four times."""
    if net.pick(False, True):
        return net.op("SpaceToDepth", x, blocksize=2)
    rows = [part(net, x, 2, i, 2**63 - 1, 2) for i in (0, 1)]
    return net.op("Concat", *(part(net, row, 3, j, 2**63 - 1, 2) for j in (0, 1) for row in rows), axis=1)


def transposed(net: Net, x: Tensor) -> Tensor:
    """A transposed convolution, perhaps grouped, and a stride back."""
    c = x.shape[1]
    group = net.pick(*(g for g in range(1, c + 1) if c % g == 0))
    out = net.pick(1, 2, 3)
    w = net.weight(c, out, 2, 2, fan=c // group)
    bias = [net.vector(out * group)] if net.pick(True, False) else []
    y = net.op("ConvTranspose", x, w, *bias, group=group, strides=[2, 2])
    return net.op(net.pick("MaxPool", "AveragePool"), activation(net, y), kernel_shape=[2, 2], strides=[2, 2])


def pooled(net: Net, x: Tensor) -> Tensor:
    """A pool that keeps the size, or one whose result is resized back."""
    if net.opset < 13 or net.pick(True, False):
        return net.op(net.pick("MaxPool", "AveragePool"), x, kernel_shape=[3, 3], pads=[1] * 4)
    small = net.op("GlobalAveragePool", x)
    if net.pick(True, False):
        return net.op("Resize", small, None, None, net.batch_shape(x, x.shape), shape=x.shape, mode="nearest")
    scales = net.constant(np.array([1, 1, *x.shape[2:]], np.float32), "scales")
    return net.op("Resize", small, None, scales, shape=x.shape, mode="nearest")


def widened(net: Net, x: Tensor) -> Tensor:
    """ResNet's shortcut A: zeros for channels that are new."""
    before, after = net.number(0, 2), net.number(1, 2)
    pads = net.ints(0, before, 0, 0, 0, after, 0, 0)
    return net.op("Pad", x, pads, *([net.scalar(net.pick(0.0, 0.5))] if net.pick(False, True) else []))


def residual(net: Net, x: Tensor) -> Tensor:
    """x + f(x), with a projection where the widths differ, or without one by a last convolution."""
    y = x
    for _ in range(net.number(1, 3)):
        y = net.pick(*SIMPLE)(net, y)
    if y.shape[1] != x.shape[1] and net.pick(True, False):
        x = conv(net, x, y.shape[1])
    else:
        y = conv(net, y, x.shape[1])
    total = net.op("Add", *net.pick((x, y), (y, x)))
    return net.op("Relu", total) if net.pick(True, False) else total


def stage(net: Net, x: Tensor) -> Tensor:
    """The first block of a stage of ResNet's option A: every second position, and zeros for new channels."""
    before, after, stride = net.number(0, 2), net.number(0, 2), net.pick(2, 1)
    y = conv(net, x, before + x.shape[1] + after, kernel=3, stride=stride)
    for axis in (2, 3) if stride > 1 else ():
        x = part(net, x, axis, 0, net.pick(2**63 - 1, x.shape[axis]), stride)
    pads = net.ints(0, before, 0, 0, 0, after, 0, 0)
    x = net.op("Pad", x, pads, *([net.scalar(0.0)] if net.pick(False, True) else []))
    return net.op("Relu", net.op("Add", *net.pick((x, y), (y, x))))


def skip(net: Net, x: Tensor) -> Tensor:
    """Joins an earlier tensor, whatever it was made by."""
    same = [t for t in net.seen if t.shape == x.shape and t != x]
    near = [t for t in net.seen if len(t.shape) == 4 and t.shape[2:] == x.shape[2:] and t != x]
    same_shape = bool(same) and net.pick(True, False)
    if same_shape:
        return net.op(net.pick("Add", "Mul", "Sub", "Max"), x, net.pick(*same))
    return net.op("Concat", x, net.pick(*near), axis=1) if near else plain(net, x)


def window_mix(net: Net, x: Tensor) -> Tensor:
    """Swin-like: space goes last in one order and comes back, with a matrix over the channels between."""
    n, c, h, w = x.shape
    tokens = net.transpose(net.reshape(x, n, c, h * w), 0, 2, 1)
    mixed = linear(net, tokens, net.pick(*WIDTHS))
    return net.reshape(net.transpose(mixed, 0, 2, 1), n, mixed.shape[2], h, w)


SIMPLE: tuple[Step, ...] = (
    *(plain, plain, grouped, activation, activation, normalized, normalized, normalized),
    *(squeeze_excite, gate, partial, shuffle, window_mix),
    lambda net, x: channel_scale(net, x, 1),
)
STEPS: tuple[Step, ...] = (
    *(plain, residual, residual, stage, dense_block, skip, skip, spatial_attention),
    *(pixel_shuffle, transposed, pooled, widened, unusual),
    *SIMPLE,
)


def image_step(net: Net, x: Tensor) -> Tensor:
    """One layer; too many channels are brought down first."""
    if x.shape[1] > WIDEST:
        x = conv(net, x, 8)
    y = net.pick(*STEPS)(net, x)
    if min(y.shape[2:]) > 3 and net.rarely():
        y = conv(net, y, net.pick(*WIDTHS), kernel=3, stride=2)
    return y
