"""Operators that contract: Conv, ConvTranspose, MatMul, Gemm, Einsum."""

from __future__ import annotations

import string
from collections.abc import Sequence

from onnx_mdp.graph.shapes import Shape
from onnx_mdp.rules.registry import Refusal, View, operand, rule, spell

_WINDOW = "the window slides along it"


@rule("Conv", why=_WINDOW, zero="x|w, b")
def conv(view: View) -> str:
    """Grouped or not; a depthwise convolution is the case of one input and one output channel a group."""
    g, kernel = view.attr("group", 1), "".join(",1" if size == 1 else ",!" for size in view.shape(1)[2:])
    space = _space(view)
    if g == 1:
        return f"x[n,i{space}] w[o,i{kernel}] b[o] -> y[n,o{space}]"
    return f"x[n,(g:{g} i){space}] w[(g o),i{kernel}] b[(g o)] -> y[n,(g o){space}]; group = |g|"


def _space(view: View) -> str:
    """The axes a window slides along; a window of one position that meets each once passes the axis."""
    rank = view.rank(0) - 2
    strides, pads = view.attr("strides", [1] * rank), view.attr("pads", [0] * 2 * rank)
    passes = (
        kernel == 1 and stride == 1 and not before and not after
        for kernel, stride, before, after in zip(view.shape(1)[2:], strides, pads[:rank], pads[rank:], strict=True)
    )
    return "".join(f",{name}" if alone else ",!" for name, alone in zip("stuv", passes, strict=False))


@rule("ConvTranspose", why=_WINDOW, zero="x|w, b")
def conv_transpose(view: View) -> str:
    """As Conv, with the weight's first two axes exchanged."""
    g, window = view.attr("group", 1), ",!" * (view.rank(0) - 2)
    if g == 1:
        return f"x[n,i{window}] w[i,o{window}] b[o] -> y[n,o{window}]"
    return f"x[n,(g:{g} i){window}] w[(g i),o{window}] b[(g o)] -> y[n,(g o){window}]; group = |g|"


@rule("DeformConv", why=_WINDOW, zero="x|w, b")
def deformable_conv(view: View) -> str | Refusal:
    """A Conv whose window is bent by offsets that all channels share."""
    if view.attr("group", 1) != 1 or view.attr("offset_group", 1) != 1:
        return Refusal("its channels share offsets in groups")
    rest = " ".join((("b[o]" if view.has(3) else "_"), "mask[n,!,!,!]")[: len(view.node.inputs) - 3])
    return f"x[n,i,!,!] w[o,i,!,!] offset[n,!,!,!] {rest} -> y[n,o,!,!]"


@rule("MatMul", zero="x|w")
def matmul(view: View) -> str:
    """numpy.matmul: leading axes broadcast, k is contracted."""
    return product(view, [view.shape(i)[: max(view.rank(i) - 2, 0)] for i in (0, 1)])


def product(view: View, leads: Sequence[Shape]) -> str:
    """The line of a matrix product whose factors have these leading axes."""
    out = view.out_shape()
    ranks = view.rank(0), view.rank(1)
    batch = spell(max(*ranks, 2) - 2, skip="ijk")

    def axes(i: int, core: list[str]) -> str:
        names = batch[len(batch) - len(leads[i]) :]
        sizes = out[len(batch) - len(leads[i]) : len(batch)]
        kept = [name if size == full else "1" for name, size, full in zip(names, leads[i], sizes, strict=True)]
        return operand("xw"[i], kept + core)

    left = ["i", "k"] if ranks[0] > 1 else ["k"]
    right = ["k", "j"] if ranks[1] > 1 else ["k"]
    y = batch + left[:-1] + right[1:]
    return f"{axes(0, left)} {axes(1, right)} -> {operand('y', y)}"


@rule("Gemm", zero="x|w, b")
def gemm(view: View) -> str | Refusal:
    """Alpha x w + beta b, either factor possibly transposed."""
    x = "k,i" if view.attr("transA", 0) else "i,k"
    w = "j,k" if view.attr("transB", 0) else "k,j"
    bias = ""
    if view.has(2):
        rank = view.rank(2)
        names = zip("ij"[2 - rank :], view.shape(2), view.out_shape()[2 - rank :], strict=True)
        bias = " " + operand("b", [n if size == full else "1" for n, size, full in names])
    return f"x[{x}] w[{w}]{bias} -> y[i,j]"


@rule("Einsum")
def einsum(view: View) -> str | Refusal:
    """Its equation is a rule already; an ellipsis stands for letters aligned at the right."""
    equation = str(view.attr("equation")).replace(" ", "")
    if "->" not in equation:
        return Refusal("its equation leaves the output implicit")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    wide = max(view.rank(i) - len(term.replace("...", "")) for i, term in enumerate(terms) if "..." in term or not i)
    hidden = free[: max(wide, 0)]
    sizes: dict[str, int] = {}
    for i, term in enumerate(terms):
        for name, size in zip(_expanded(term, view.rank(i), hidden), view.shape(i), strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    operands = []
    for i, term in enumerate(terms):
        names = zip(_expanded(term, view.rank(i), hidden), view.shape(i), strict=True)
        operands.append(operand(f"x{i + 1}", [name if size == sizes[name] else "1" for name, size in names]))
    y = _expanded(right, len(view.out_shape()), hidden)
    zero = "|".join(f"x{i + 1}" for i in range(len(terms)))
    return f"{' '.join(operands)} -> {operand('y', y)}; zero {zero}"


def _expanded(term: str, rank: int, hidden: list[str]) -> list[str]:
    before, dots, after = term.partition("...")
    count = rank - len(before) - len(after)
    return [*before, *(hidden[len(hidden) - count :] if dots and count else []), *after]
