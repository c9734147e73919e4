"""Operators that pick, place or order positions by index: Gather and Scatter in all forms, TopK, ArgMax, CumSum."""

from __future__ import annotations

from onnx_mdp.rules.registry import Refusal, View, operand, rule, spell

_PICKED = "positions on it are picked by index"
_FOUND = "how many positions it finds depends on the data"


def replaced(names: list[str], axis: int, expr: str) -> list[str]:
    """The names with one of them exchanged."""
    return [*names[:axis], expr, *names[axis + 1 :]]


@rule("Gather", why=_PICKED, zero="x")
def gather(view: View) -> str:
    """Replaces one axis by those of the indices."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", 0))
    picks = [f"i{k}" for k in range(view.rank(1))]
    x = replaced(names, axis, f"!{names[axis]}")
    return f"{operand('x', x)} {operand('ids', picks)} -> {operand('y', names[:axis] + picks + names[axis + 1 :])}"


@rule("GatherND", why=_PICKED, zero="x")
def gather_nd(view: View) -> str:
    """Replaces the leading axes, after the batch axes, by those of the indices."""
    names, batch = spell(view.rank(0)), view.attr("batch_dims", 0)
    depth = view.shape(1)[-1]
    shared, picked, rest = names[:batch], names[batch : batch + depth], names[batch + depth :]
    picks = [f"i{k}" for k in range(view.rank(1) - batch - 1)]
    x = [*shared, *(f"!{name}" for name in picked), *rest]
    return f"{operand('x', x)} {operand('ids', [*shared, *picks, '!'])} -> {operand('y', [*shared, *picks, *rest])}"


@rule("GatherElements", why=_PICKED, zero="x")
def gather_elements(view: View) -> str:
    """One index per output element: axes beside `axis` pass where the indices cover them whole."""
    ids, x = _beside(view)
    y = spell(view.rank(0))
    return f"{operand('x', x)} {operand('ids', ids)} -> {operand('y', y)}"


def _beside(view: View) -> tuple[list[str], list[str]]:
    """Names of a tensor's axes, and of a second one's that only shares those beside `axis` that have equal size."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", 0))
    whole = [i != axis and s == f for i, (s, f) in enumerate(zip(view.shape(0), view.shape(1), strict=True))]
    first = [name if keeps else f"!{name}" for name, keeps in zip(names, whole, strict=True)]
    return first, [name if keeps else f"!{name}0" for name, keeps in zip(names, whole, strict=True)]


@rule("ScatterND", why=_PICKED, zero="x, u")
def scatter_nd(view: View) -> str:
    """Writes slices at indexed positions of the leading axes."""
    names, depth = spell(view.rank(0)), view.shape(1)[-1]
    picks = [f"i{k}" for k in range(view.rank(1) - 1)]
    x = [*(f"!{name}" for name in names[:depth]), *names[depth:]]
    updates = operand("u", [*picks, *names[depth:]])
    return f"{operand('x', x)} {operand('ids', [*picks, '!'])} {updates} -> {operand('y', names)}"


@rule("ScatterElements", why=_PICKED, zero="x, u")
def scatter_elements(view: View) -> str:
    """One index per written element: axes beside `axis` pass where the indices cover them whole."""
    x, ids = _beside(view)
    y = spell(view.rank(0))
    return f"{operand('x', x)} {operand('ids', ids)} {operand('u', ids)} -> {operand('y', y)}"


@rule("TopK", why="its positions are ordered by value")
def top_k(view: View) -> str:
    """One axis is ordered and shortened."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", -1))
    y = replaced(names, axis, f"!{names[axis]}0")
    return f"{operand('x', replaced(names, axis, '!'))} k -> {operand('y', y)} {operand('ids', y)}"


@rule("ArgMax", "ArgMin", why="its positions are counted")
def arg_max(view: View) -> str:
    """One axis becomes the position of its extreme."""
    names, axis = spell(view.rank(0)), view.axis(view.attr("axis", 0))
    y = replaced(names, axis, "1") if view.attr("keepdims", 1) else [*names[:axis], *names[axis + 1 :]]
    return f"{operand('x', replaced(names, axis, f'!{names[axis]}'))} -> {operand('y', y)}"


@rule("CumSum", "CumProd", why="it is accumulated along it", zero="x")
def cumulative(view: View) -> str | Refusal:
    """One axis is accumulated."""
    axes = view.ints(1)
    if axes is None:
        return Refusal("its axis is computed from data")
    names, axis = spell(view.rank(0)), view.axis(axes[0])
    return f"{operand('x', replaced(names, axis, f'!{names[axis]}'))} axis -> {operand('y', names)}"


@rule("ReverseSequence", why="its positions are reversed", zero="x")
def reverse_sequence(view: View) -> str:
    """Reverses the time axis of each sequence."""
    names, time = spell(view.rank(0)), view.attr("time_axis", 0)
    lengths = operand("lengths", [names[view.attr("batch_axis", 1)]])
    return f"{operand('x', replaced(names, time, f'!{names[time]}'))} {lengths} -> {operand('y', names)}"


@rule("Trilu", why="its positions are compared", zero="x")
def trilu(view: View) -> str:
    """Keeps one triangle of the last two axes."""
    names = spell(view.rank(0))
    x = [*names[:-2], *(f"!{name}" for name in names[-2:])]
    return f"{operand('x', x)}{' k' if view.has(1) else ''} -> {operand('y', names)}"


@rule("EyeLike", why="its positions are compared")
def eye_like(view: View) -> str:
    """A unit matrix of the input's shape."""
    return "x[!a,!b] -> y[a,b]"


@rule("OneHot", why="it counts positions")
def one_hot(view: View) -> str:
    """A new axis of zeros with one mark."""
    names = spell(view.rank(0))
    axis = view.axis(view.attr("axis", -1), len(names) + 1)
    return f"{operand('ids', names)} depth values -> {operand('y', [*names[:axis], '!', *names[axis:]])}"


@rule("Range", why="it counts positions")
def range_(view: View) -> str:
    """An axis of its own."""
    return "start limit delta -> y[!]"


@rule("If", "Loop", "Scan")
def control_flow(view: View) -> Refusal:
    """Subgraphs are left alone, with all they read and write."""
    return Refusal("it passes through a subgraph")


@rule("Compress", "NonMaxSuppression", "NonZero", "Unique")
def found(view: View) -> Refusal:
    """The output's length is known only when the model runs."""
    return Refusal(_FOUND)
