"""Operators that only rearrange: Reshape, Flatten, Transpose, Squeeze, Expand, pixel shuffles, and shape readers."""

from __future__ import annotations

import numpy as np

from onnx_mdp.rules.registry import Refusal, View, operand, rule, spell


def _elements(target: str, values: tuple[int, ...], names: list[str], kept: tuple[int, ...]) -> str:
    """Clauses that hold each element of a shape to its axis, except the special values in `kept`."""
    clauses = [f"; {target}[{i}] = |{n}|" for i, (v, n) in enumerate(zip(values, names, strict=True)) if v not in kept]
    return "".join(clauses)


@rule("Reshape", zero="x")
def reshape(view: View) -> str | Refusal:
    """One equation: the product of the axes stays. A 0 in the shape copies the input's axis, -1 follows by itself."""
    values = view.ints_or_attr(1, "shape")
    if values is None:
        return Refusal("the new shape is computed from data")
    names = spell(view.rank(0) + len(values))
    x, y = names[: view.rank(0)], names[view.rank(0) :]
    copied = [] if view.attr("allowzero", 0) else [i for i, v in enumerate(values) if v == 0]
    copies = "".join(f"; {x[i]} = {y[i]}" for i in copied)
    shape = " shape" if view.has(1) else ""
    whole = f"; ({' '.join(x)}) = ({' '.join(y)})"
    return f"{operand('x', x)}{shape} -> {operand('y', y)}{copies}{whole}{_elements('shape', values, y, (-1, 0))}"


@rule("Flatten", zero="x")
def flatten(view: View) -> str:
    """Two axes: the product of those before `axis`, and of the rest."""
    names, axis = spell(view.rank(0)), view.attr("axis", 1)
    axis = axis + view.rank(0) if axis < 0 else axis
    return f"{operand('x', names)} -> y[({' '.join(names[:axis])}),({' '.join(names[axis:])})]"


@rule("Transpose", zero="x")
def transpose(view: View) -> str:
    """The axes in another order."""
    names = spell(view.rank(0))
    order = view.attr("perm", list(reversed(range(len(names)))))
    return f"{operand('x', names)} -> {operand('y', [names[i] for i in order])}"


@rule("Squeeze", why="a Squeeze without axes would drop it at size one", zero="x")
def squeeze(view: View) -> str | Refusal:
    """Drops axes of size one; one that names none would also drop those that a cut leaves with one unit."""
    axes = view.ints_or_attr(1, "axes")
    if axes is None and view.has(1):
        return Refusal("the squeezed axes are computed from data")
    dropped = [i for i, s in enumerate(view.shape(0)) if s == 1] if axes is None else [view.axis(a) for a in axes]
    names, lock = spell(view.rank(0)), "!" if axes is None else ""
    x = ["1" if i in dropped else f"{lock}{n}" for i, n in enumerate(names)]
    return f"{operand('x', x)} -> {operand('y', [n for i, n in enumerate(names) if i not in dropped])}"


@rule("Unsqueeze", zero="x")
def unsqueeze(view: View) -> str | Refusal:
    """Adds axes of size one."""
    axes = view.ints_or_attr(1, "axes")
    if axes is None:
        return Refusal("the new axes are computed from data")
    rank = view.rank(0) + len(axes)
    added = {view.axis(a, rank) for a in axes}
    names = iter(spell(view.rank(0)))
    y = ["1" if i in added else next(names) for i in range(rank)]
    return f"{operand('x', spell(view.rank(0)))} -> {operand('y', y)}"


@rule("Expand", zero="x")
def expand(view: View) -> str | Refusal:
    """Broadcasts to a shape; where the shape says 1 the input's axis stays."""
    values = view.ints(1)
    if values is None:
        return Refusal("the new shape is computed from data")
    names, out = spell(len(view.out_shape())), view.out_shape()
    skip = len(out) - view.rank(0)
    x = [n if s == f else "1" for n, s, f in zip(names[skip:], view.shape(0), out[skip:], strict=True)]
    sizes = _elements("shape", values, names[len(out) - len(values) :], (1,))
    return f"{operand('x', x)} shape -> {operand('y', names)}{sizes}"


@rule("Shape", "Size")
def shape(view: View) -> str:
    """Reads sizes; what becomes of them is followed element by element (`onnx_mdp.graph.dims`)."""
    return f"{operand('x', spell(view.rank(0)))} -> y"


@rule("ConstantOfShape")
def constant_of_shape(view: View) -> str | Refusal:
    """A new tensor whose axes have the sizes in its input; mostly one of zeros."""
    values = view.ints(0)
    if values is None:
        return Refusal("its shape is computed from data")
    names = spell(len(values))
    zero = "" if np.any(view.attr("value", 0.0)) else "; zero _"
    return f"shape -> {operand('y', names)}{_elements('shape', values, names, ())}{zero}"


@rule("DepthToSpace", why="blocks of pixels lie along it", zero="x")
def depth_to_space(view: View) -> str:
    """Pixel shuffle: a block of channels becomes a block of pixels."""
    block = view.attr("blocksize", 1)
    depth = f"(p:{block} q:{block} c)" if view.attr("mode", "DCR") == "DCR" else f"(c p:{block} q:{block})"
    return f"x[n,{depth},h,w] -> y[n,c,!(h p),!(w q)]"


@rule("SpaceToDepth", why="blocks of pixels lie along it", zero="x")
def space_to_depth(view: View) -> str:
    """The inverse of DepthToSpace in mode DCR."""
    block = view.attr("blocksize", 1)
    return f"x[n,c,!(h p:{block}),!(w q:{block})] -> y[n,(p q c),h,w]"


@rule("Col2Im", why="the window slides along it", zero="x")
def col2im(view: View) -> str:
    """Adds up patches; the channels are the outer factor of the second axis."""
    space = ",!" * (len(view.out_shape()) - 2)
    return f"x[n,(c !k:{view.shape(0)[1] // view.out_shape()[1]}),!] image block -> y[n,c{space}]"
