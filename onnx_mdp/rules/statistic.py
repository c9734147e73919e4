"""Operators that take statistics along axes: normalizations, Softmax, pools, reductions, Resize."""

from __future__ import annotations

from onnx_mdp.rules.registry import Refusal, View, operand, rule, spell

NORMALIZED = "its statistics are taken over it"


@rule("BatchNormalization", zero="scale, bias")
def batch_normalization(view: View) -> str | Refusal:
    """All parameters lie along the channels."""
    if view.attr("training_mode", 0):
        return Refusal("it takes batch statistics")
    names = spell(view.rank(0))
    c = names[1]
    parameters = " ".join(f"{p}[{c}]" for p in ("scale", "bias", "mean", "var"))
    return f"{operand('x', names)} {parameters} -> {operand('y', names)}"


@rule("LayerNormalization", "RMSNormalization", why=NORMALIZED, zero="scale, bias")
def layer_normalization(view: View) -> str:
    """Normalizes the axes from `axis` on; cutting them changes every mean and variance."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", -1))
    x = [*names[:axis], *(f"!{n}" for n in names[axis:])]
    scales = [operand(p, names[len(names) - view.rank(i) :]) for i, p in ((1, "scale"), (2, "bias")) if view.has(i)]
    return f"{operand('x', x)} {' '.join(scales)} -> {operand('y', names)}"


@rule("InstanceNormalization", why=NORMALIZED, zero="scale, bias")
def instance_normalization(view: View) -> str:
    """Normalizes each channel over space, so channels stay independent."""
    space = ",!" * (view.rank(0) - 2)
    return f"x[n,c{space}] scale[c] bias[c] -> y[n,c{space}]"


@rule("Softmax", "LogSoftmax", why="the values along it sum to one")
def softmax_coerced(view: View) -> str:
    """Before opset 13 all axes from `axis` on are one distribution."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", 1))
    return f"{operand('x', [*names[:axis], *(f'!{n}' for n in names[axis:])])} -> {operand('y', names)}"


@rule("Softmax", "LogSoftmax", "Hardmax", why="the values along it sum to one", since=13)
def softmax(view: View) -> str:
    """One axis is a distribution."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", -1))
    x = [f"!{n}" if i == axis else n for i, n in enumerate(names)]
    return f"{operand('x', x)} -> {operand('y', names)}"


@rule("AveragePool", "LpPool", "MaxPool", why="the window slides along it", zero="x")
def pool(view: View) -> str | Refusal:
    """Space shrinks, channels pass."""
    if len(view.node.outputs) > 1:
        return Refusal("its indices count positions of all channels")
    space = ",!" * (view.rank(0) - 2)
    return f"x[n,c{space}] -> y[n,c{space}]"


@rule("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", why="it is pooled away", zero="x")
def global_pool(view: View) -> str:
    """Space shrinks to one position."""
    ones = ",1" * (view.rank(0) - 2)
    return f"x[n,c{',!' * (view.rank(0) - 2)}] -> y[n,c{ones}]"


@rule("ReduceLogSum", "ReduceLogSumExp", why="it is reduced away")
@rule(
    *("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
    why="it is reduced away",
    zero="x",
)
def reduce(view: View) -> str | Refusal:
    """The reduced axes leave, or stay with size one."""
    axes = view.ints_or_attr(1, "axes")
    if axes is None and view.has(1):
        return Refusal("the reduced axes are computed from data")
    rank = view.rank(0)
    all_axes = [] if view.attr("noop_with_empty_axes", 0) else list(range(rank))
    reduced = {view.axis(a) for a in axes} if axes else set(all_axes)
    names = spell(rank)
    x = [f"!{n}" if i in reduced else n for i, n in enumerate(names)]
    y = ["1" if i in reduced else n for i, n in enumerate(names) if i not in reduced or view.attr("keepdims", 1)]
    return f"{operand('x', x)} -> {operand('y', y)}"


@rule("Resize", "Upsample", why="it is resampled", zero="x")
def resize(view: View) -> str:
    """Axes that keep their size pass; sizes given as integers follow."""
    names, out = spell(view.rank(0)), view.out_shape()
    same = [s == f for s, f in zip(view.shape(0), out, strict=True)]
    x = [n if keeps else f"!{n}0" for n, keeps in zip(names, same, strict=True)]
    y = [n if keeps else f"!{n}" for n, keeps in zip(names, same, strict=True)]
    sizes = "".join(f"; sizes[{i}] = |{n}|" for i, n in enumerate(names) if view.has(3) and same[i])
    parameters = "".join(f" {p}" for i, p in enumerate(("roi", "scales", "sizes"), 1) if i < len(view.node.inputs))
    return f"{operand('x', x)}{parameters} -> {operand('y', y)}{sizes}"
