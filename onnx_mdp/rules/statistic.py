"""Operators that take statistics along axes: normalizations, Softmax, pools, reductions, resampling."""

from __future__ import annotations

from onnx_mdp.rules.index import replaced
from onnx_mdp.rules.pointwise import unary
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


@rule("LayerNormalization", why=NORMALIZED, zero="scale, bias")
def layer_normalization(view: View) -> str:
    """Normalizes the axes from `axis` on; cutting them changes every mean and variance."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", -1))
    x = [*names[:axis], *(f"!{n}" for n in names[axis:])]
    scales = [operand(p, names[len(names) - view.rank(i) :]) for i, p in ((1, "scale"), (2, "bias")) if view.has(i)]
    return f"{operand('x', x)} {' '.join(scales)} -> {operand('y', names)}"


@rule("RMSNormalization", "SimplifiedLayerNormalization", zero="x|scale")
def rms_normalization(view: View) -> str:
    """Divides by the root of a mean of squares: units that are zero go, the size in the mean moves into scale."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", -1))
    scale, normalized = operand("scale", names[len(names) - view.rank(1) :]), f"({' '.join(names[axis:])})"
    line = f"{operand('x', names)} {scale} -> {operand('y', names)}; over x {normalized}"
    return f"{line}; times scale |{normalized}|^-0.5; times epsilon |{normalized}|^-1"


@rule("InstanceNormalization", why=NORMALIZED, zero="scale, bias")
def instance_normalization(view: View) -> str:
    """Normalizes each channel over space, so channels stay independent."""
    space = ",!" * (view.rank(0) - 2)
    return f"x[n,c{space}] scale[c] bias[c] -> y[n,c{space}]"


@rule("GroupNormalization", why=NORMALIZED, zero="scale, bias")
def group_normalization_by_group(view: View) -> str:
    """Until opset 20 scale and bias lie along the groups."""
    return _group_normalization(view, "[g]")


@rule("GroupNormalization", why=NORMALIZED, zero="scale, bias", since=21)
def group_normalization(view: View) -> str:
    """Whole groups may go; a group's channels are normalized together."""
    return _group_normalization(view, "[(g c)]")


def _group_normalization(view: View, parameters: str) -> str:
    space = ",!" * (view.rank(0) - 2)
    groups = f"(g:{view.attr('num_groups', 1)} !c)"
    return f"x[n,{groups}{space}] scale{parameters} bias{parameters} -> y[n,(g c){space}]; num_groups = |g|"


@rule("LpNormalization", why=NORMALIZED, zero="x")
def lp_normalization(view: View) -> str:
    """One axis is scaled to unit norm."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", -1))
    return f"{operand('x', replaced(names, axis, f'!{names[axis]}'))} -> {operand('y', names)}"


@rule("MeanVarianceNormalization", why=NORMALIZED)
def mean_variance_normalization(view: View) -> str:
    """Zero mean and unit variance over `axes`."""
    names, axes = spell(view.rank(0)), [view.axis(a) for a in view.attr("axes", [0, 2, 3])]
    x = [f"!{n}" if i in axes else n for i, n in enumerate(names)]
    return f"{operand('x', x)} -> {operand('y', names)}"


@rule("LRN", why="it is normalized over its neighbours", zero="x")
def local_response_normalization(view: View) -> str:
    """A window slides along the channels."""
    names = spell(view.rank(0))
    return f"{operand('x', replaced(names, 1, f'!{names[1]}'))} -> {operand('y', names)}"


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
@rule("ReduceMax", "ReduceMin", "ReduceProd", why="it is reduced away", zero="x")
def reduce(view: View) -> str | Refusal:
    """The reduced axes leave, or stay with size one."""
    reduced = _reduced(view)
    return reduced if isinstance(reduced, Refusal) else _reduction(view, reduced, mark="!")


@rule("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare", zero="x")
def reduce_sum(view: View) -> str | Refusal:
    """A sum loses nothing with units that are zero."""
    reduced = _reduced(view)
    return reduced if isinstance(reduced, Refusal) else _reduction(view, reduced, mark="")


@rule("ReduceMean", zero="x")
def reduce_mean(view: View) -> str | Refusal:
    """A sum, divided by a size that a cut must not change."""
    reduced = _reduced(view)
    if isinstance(reduced, Refusal) or not reduced:
        return reduced if isinstance(reduced, Refusal) else unary(view)
    names = spell(view.rank(0))
    return f"{_reduction(view, reduced, mark='')}; times y |({' '.join(names[i] for i in sorted(reduced))})|^1"


def _reduced(view: View) -> set[int] | Refusal:
    axes = view.ints_or_attr(1, "axes")
    if axes is None and view.has(1):
        return Refusal("the reduced axes are computed from data")
    if axes:
        return {view.axis(a) for a in axes}
    return set() if view.attr("noop_with_empty_axes", 0) else set(range(view.rank(0)))


def _reduction(view: View, reduced: set[int], mark: str) -> str:
    names = spell(view.rank(0))
    x = [mark + n if i in reduced else n for i, n in enumerate(names)]
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


@rule("GridSample", why="it is resampled", zero="x")
def grid_sample(view: View) -> str:
    """Space is sampled at the grid's points; channels pass."""
    space = ",!" * (view.rank(0) - 2)
    return f"x[n,c{space}] grid[n{space},!] -> y[n,c{space}]"


@rule("AffineGrid", why="its size is fixed")
def affine_grid(view: View) -> str:
    """The grid of an affine map."""
    return f"theta[!,!,!] size -> {operand('y', ['!'] * len(view.out_shape()))}"


@rule("RoiAlign", why="it is resampled", zero="x")
def roi_align(view: View) -> str:
    """Space is sampled inside each region; channels pass."""
    return "x[!,c,!,!] rois[r,!] ids[r] -> y[r,c,!,!]"


@rule("MaxRoiPool", why="it is resampled", zero="x")
def max_roi_pool(view: View) -> str:
    """Space is pooled inside each region; channels pass."""
    return "x[!,c,!,!] rois[r,!] -> y[r,c,!,!]"


@rule("DFT", why="it is transformed to frequencies", zero="x")
def dft(view: View) -> str | Refusal:
    """One axis is transformed; the last one holds real and imaginary parts."""
    given = view.ints(2) if view.has(2) else (view.attr("axis", 1) if view.opset < 20 else -2,)
    if given is None:
        return Refusal("its axis is computed from data")
    names, axis = spell(view.rank(0) - 1), view.axis(given[0])
    x = operand("x", [*replaced(names, axis, f"!{names[axis]}0"), "!"])
    y = operand("y", [*replaced(names, axis, f"!{names[axis]}"), "!"])
    parameters = "".join(f" {name}" for name in ("length", "axis")[: len(view.node.inputs) - 1])
    return f"{x}{parameters} -> {y}"


@rule("LSTM", "GRU", "RNN", why="it is a recurrent state or its gates")
def recurrent(view: View) -> str:
    """Only the axis of the input's features may shrink; the state is left alone."""
    operands = [
        operand(name, ["!", "!", "i"] if name in "xw" else ["!"] * view.rank(k)) if view.has(k) else "_"
        for k, name in enumerate(("x", "w", "r", "b", "lengths", "h", "c", "p")[: len(view.node.inputs)])
    ]
    outputs = [
        operand(f"y{k + 1}", ["!"] * len(view.out_shape(k))) if name else "_"
        for k, name in enumerate(view.node.outputs)
    ]
    return f"{' '.join(operands)} -> {' '.join(outputs)}"
