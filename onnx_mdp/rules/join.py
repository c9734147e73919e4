"""Operators that put axes one after the other or take them apart: Concat, Split, Slice, Pad, Tile."""

from __future__ import annotations

from onnx_mdp.rules.index import replaced
from onnx_mdp.rules.registry import Refusal, View, operand, rule, spell


@rule("Concat")
def concat(view: View) -> str:
    """One axis of the output is the sum of the inputs'."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", 1))
    parts = [f"{names[axis]}{i + 1}" for i in range(len(view.node.inputs))]
    operands = [operand(f"x{i + 1}", replaced(names, axis, part)) for i, part in enumerate(parts)]
    whole = parts[0] if len(parts) == 1 else f"[{' + '.join(parts)}]"
    zero = ", ".join(f"x{i + 1}?" for i in range(len(parts)))
    return f"{' '.join(operands)} -> {operand('y', replaced(names, axis, whole))}; zero {zero}"


@rule("Split", zero="x")
def split(view: View) -> str | Refusal:
    """The inverse of Concat. Without explicit sizes all parts stay equal, so they share one factor."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", 0))
    count = len(view.node.outputs)
    values = view.ints_or_attr(1, "split")
    if values is None and view.has(1):
        return Refusal("the sizes of the parts are computed from data")
    if values is None and len({view.out_shape(i)[axis] for i in range(count)}) > 1:
        return Refusal("the last part is shorter and has no size of its own")
    parts = [names[axis] if values is None else f"{names[axis]}{i + 1}" for i in range(count)]
    outputs = " ".join(operand(f"y{i + 1}", replaced(names, axis, part)) for i, part in enumerate(parts))
    sizes = "" if values is None else "".join(f"; split[{i}] = |{part}|" for i, part in enumerate(parts))
    parameter = " split" if view.has(1) else ""
    whole = f"[{' + '.join(parts)}]"
    return f"{operand('x', replaced(names, axis, whole))}{parameter} -> {outputs}{sizes}"


@rule("Slice", why="a Slice with a step picks along it", zero="x")
def slice_(view: View) -> str | Refusal:
    """A contiguous slice cuts the axis into a sum and keeps the middle part."""
    starts, ends = view.ints_or_attr(1, "starts"), view.ints_or_attr(2, "ends")
    axes, steps = view.ints_or_attr(3, "axes"), view.ints_or_attr(4, "steps")
    if starts is None or ends is None or any(view.has(i) and view.ints(i) is None for i in (3, 4)):
        return Refusal("its bounds are computed from data")
    axes = tuple(range(len(starts))) if axes is None else axes
    x, sizes = spell(view.rank(0)), ""
    y = list(x)
    for i, (start, end, axis) in enumerate(zip(starts, ends, axes, strict=True)):
        axis = view.axis(axis)
        step = steps[i] if steps else 1
        x[axis], y[axis], clauses = _sliced(y[axis], view.shape(0)[axis], (start, end, step), i)
        sizes += clauses
    parameters = "".join(f" {name}" for i, name in enumerate(("starts", "ends", "axes", "steps"), 1) if view.has(i))
    return f"{operand('x', x)}{parameters} -> {operand('y', y)}{sizes}"


def _sliced(name: str, size: int, bounds: tuple[int, int, int], i: int) -> tuple[str, str, str]:
    """The expressions of one sliced axis before and after, and the clauses for its bounds."""
    start, stop, step = slice(*bounds).indices(size)
    if (start, stop, step) == (0, size, 1):
        return name, name, ""
    if step != 1:
        return f"!{name}0", f"!{name}", ""
    parts = [(f"{name}1", start), (name, stop - start), (f"{name}2", size - stop)]
    whole = " + ".join(f"{part}:{length}" for part, length in parts if length)
    clauses = f"; starts[{i}] = |{name}1|" if start else ""
    if stop < size:
        clauses += f"; ends[{i}] = |[{name}1 + {name}]|" if start else f"; ends[{i}] = |{name}|"
    return f"[{whole}]", name, clauses


@rule("Pad", why="it is padded with values that depend on its neighbours")
def pad(view: View) -> str | Refusal:
    """Constant padding appends parts to an axis; a zero part may be cut like any other."""
    pads = view.ints_or_attr(1, "pads")
    if pads is None or view.has(3):
        return Refusal("the padding is computed from data or names its axes")
    rank = view.rank(0)
    x, sizes = spell(rank), ""
    y = list(x)
    for axis, name in enumerate(spell(rank)):
        before, after = pads[axis], pads[axis + rank]
        if min(before, after) < 0 or ((before or after) and view.attr("mode", "constant") != "constant"):
            x[axis], y[axis] = f"!{name}0", f"!{name}"
        elif before or after:
            parts = [(f"{name}1", before), (name, 0), (f"{name}2", after)]
            y[axis] = f"[{' + '.join(p + (f':{n}' if n else '') for p, n in parts if n or p == name)}]"
            sizes += f"; pads[{axis}] = |{name}1|" if before else ""
            sizes += f"; pads[{axis + rank}] = |{name}2|" if after else ""
    zero = "; zero x?" if view.number(2, "value", 0.0) == 0 else ""
    return f"{operand('x', x)}{' pads' if view.has(1) else ''} -> {operand('y', y)}{sizes}{zero}"


@rule("Tile", zero="x", since=6)
def tile(view: View) -> str | Refusal:
    """Repeats an axis: its copies are the outer factor, and may be fewer."""
    repeats = view.ints(1)
    if repeats is None:
        return Refusal("its repeats are computed from data")
    names, sizes = spell(view.rank(0)), ""
    y = list(names)
    for i, (name, count) in enumerate(zip(names, repeats, strict=True)):
        if count != 1:
            y[i] = f"({name}1:{count} {name})"
            sizes += f"; repeats[{i}] = |{name}1|"
    return f"{operand('x', names)} repeats -> {operand('y', y)}{sizes}"
