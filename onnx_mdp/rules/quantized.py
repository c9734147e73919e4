"""Integer models: quantizing and decoding operators, and operators that compute on codes (QDQ and QOperator formats).

A code is zero where it equals its zero point: that is what masking writes, and what arithmetic on codes keeps. Scales
and zero points lie along an axis of what they belong to, or along none. An operator on codes has the line of its
counterpart on numbers, with these parameters between the operands.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_mdp.rules.linear import conv, gemm, matmul
from onnx_mdp.rules.pointwise import broadcast, unary
from onnx_mdp.rules.registry import Function, Refusal, View, operand, rule, spell
from onnx_mdp.rules.statistic import softmax

_MICROSOFT = "com.microsoft"
_WINDOW = "the window slides along it"


def _along(view: View, i: int, name: str, axis: str) -> str:
    """A scale or zero point: one number, or one for each position of an axis."""
    return operand(name, ["1" if size == 1 else axis for size in view.shape(i)]) if view.has(i) else "_"


def _counterpart(function: Function, view: View, *inputs: int) -> tuple[list[str], str]:
    """The operands of the rule of numbers on some of the inputs, and the rest of its line."""
    names = tuple(view.node.inputs[i] for i in inputs if i < len(view.node.inputs))
    text = function(replace(view, node=replace(view.node, inputs=names)))
    before, _, after = str(text).partition(" -> ")
    operands, depth = [""], 0
    for character in before:
        depth += (character in "[(") - (character in "])")
        if character == " " and not depth:
            operands.append("")
        else:
            operands[-1] += character
    return operands, after


def _last(text: str) -> str:
    """The last axis of an operand."""
    return text[:-1].replace("[", ",").rpartition(",")[2]


def _line(view: View, parts: list[str], after: str, *clauses: str) -> str:
    return "; ".join([f"{' '.join(parts[: len(view.node.inputs)])} -> {after}", *filter(None, clauses)])


@rule("QuantizeLinear", zero="x", domain=_MICROSOFT)
@rule("QuantizeLinear", zero="x")
def quantize(view: View) -> str | Refusal:
    """Numbers to codes."""
    return _coded(view, "nonzero s")


@rule("DequantizeLinear", zero="x", domain=_MICROSOFT)
@rule("DequantizeLinear", zero="x")
def dequantize(view: View) -> str | Refusal:
    """Codes to numbers."""
    return _coded(view, "nonzero s", "point x z s")


def _coded(view: View, *clauses: str) -> str | Refusal:
    """One scale for all, one for each position of `axis`, or one for each block of positions of it."""
    names = spell(view.rank(0))
    x, axis = list(names), view.axis(view.attr("axis", 1)) if names else 0
    if view.rank(1) > 1:
        size, blocks = view.shape(0)[axis], view.shape(1)[axis]
        if size % blocks:
            return Refusal("its last block is shorter")
        x[axis] = f"({names[axis]} !{names[axis]}0:{size // blocks})"
        parameters = [operand("s", names), operand("z", names) if view.has(2) else "_"]
    else:
        along = names[axis] if names else "1"
        parameters = [_along(view, 1, "s", along), _along(view, 2, "z", along)]
    return _line(view, [operand("x", x), *parameters], operand("y", x), *clauses)


@rule("QLinearConv", why=_WINDOW, zero="x|w, b")
def qlinear_conv(view: View) -> str:
    """Conv on codes."""
    (x, w, *b), after = _counterpart(conv, view, 0, 3, 8)
    o = w[2:].partition(",")[0]
    parts = [x, "xs", "xz", w, _along(view, 4, "ws", o), _along(view, 5, "wz", o), "ys", "yz", *b]
    return _line(view, parts, after, "nonzero ws", "point w wz ws", "point b" if view.has(8) else "")


@rule("ConvInteger", why=_WINDOW, zero="x|w")
def conv_integer(view: View) -> str:
    """Conv on codes, to 32-bit integers."""
    (x, w, *_), after = _counterpart(conv, view, 0, 1)
    parts = [x, w, "xz" if view.has(2) else "_", _along(view, 3, "wz", w[2:].partition(",")[0])]
    return _line(view, parts, after, "point w wz" if view.has(3) else "point w")


@rule("QLinearMatMul", zero="x|w")
def qlinear_matmul(view: View) -> str:
    """MatMul on codes, with a scale for all of the second factor or for each of its columns."""
    (x, w), after = _counterpart(matmul, view, 0, 3)
    parts = [x, "xs", "xz", w, _along(view, 4, "ws", _last(w)), _along(view, 5, "wz", _last(w)), "ys", "yz"]
    return _line(view, parts, after, "nonzero ws", "point w wz ws")


@rule("MatMulInteger", zero="x|w")
def matmul_integer(view: View) -> str:
    """MatMul on codes, to 32-bit integers."""
    (x, w), after = _counterpart(matmul, view, 0, 1)
    parts = [x, w, "xz" if view.has(2) else "_", _along(view, 3, "wz", _last(w))]
    return _line(view, parts, after, "point w wz" if view.has(3) else "point w")


@rule("MatMulIntegerToFloat", zero="x|w, b", domain=_MICROSOFT)
def matmul_integer_to_float(view: View) -> str:
    """MatMul on codes, decoded."""
    (x, w), after = _counterpart(matmul, view, 0, 1)
    j = _last(w)
    parts = [x, w, "xs", _along(view, 3, "ws", j), "xz" if view.has(4) else "_", _along(view, 5, "wz", j), f"b[{j}]"]
    return _line(view, parts, after, "nonzero ws", "point w wz ws" if view.has(5) else "point w _ ws")


@rule("DynamicQuantizeMatMul", zero="x|w, b", domain=_MICROSOFT)
def dynamic_quantize_matmul(view: View) -> str:
    """MatMul whose first factor is quantized by its own range, which zeros do not change."""
    (x, w), after = _counterpart(matmul, view, 0, 1)
    j = _last(w)
    parts = [x, w, _along(view, 2, "ws", j), _along(view, 3, "wz", j), f"b[{j}]" if view.has(4) else "_"]
    point = "point w wz ws" if view.has(3) else "point w _ ws"
    return _line(view, parts, after, "nonzero ws", point, f"over x ({x[2:-1].replace(',', ' ')})")


@rule("DynamicQuantizeLinear", zero="x")
def dynamic_quantize(view: View) -> str:
    """Codes by the tensor's own range, which zeros do not change."""
    names = spell(view.rank(0))
    return f"{operand('x', names)} -> {operand('y', names)} s z; over x ({' '.join(names)})"


@rule("QGemm", zero="x|w, b", domain=_MICROSOFT)
def qgemm(view: View) -> str:
    """Gemm on codes; to codes again, or to numbers where the result has no scale."""
    (x, w, *b), after = _counterpart(gemm, view, 0, 3, 6)
    ws, wz = _along(view, 4, "ws", "j"), _along(view, 5, "wz", "j")
    parts = [x, "xs", "xz", w, ws, wz, b[0] if b else "_", "ys", "yz"]
    return _line(view, parts, after, "nonzero ws", "point w wz ws", "point b" if b else "")


@rule("QLinearMul", zero="x1|x2", domain=_MICROSOFT)
@rule("QLinearAdd", zero="x1, x2", domain=_MICROSOFT)
def qlinear_pointwise(view: View) -> str:
    """Add and Mul on codes."""
    (x1, x2), after = _counterpart(broadcast, view, 0, 3)
    return _line(view, [x1, "s1", "z1", x2, "s2", "z2", "ys", "yz"], after, "point x1 z1 s1", "point x2 z2 s2")


@rule("QLinearSigmoid", domain=_MICROSOFT)
@rule("QLinearLeakyRelu", zero="x", domain=_MICROSOFT)
def qlinear_unary(view: View) -> str:
    """Activations on codes."""
    (x,), after = _counterpart(unary, view, 0)
    return _line(view, [x, "xs", "xz", "ys", "yz"], after)


@rule("QLinearSoftmax", why="the values along it sum to one", domain=_MICROSOFT)
def qlinear_softmax(view: View) -> str:
    """Softmax on codes."""
    (x,), after = _counterpart(softmax, view, 0)
    return _line(view, [x, "xs", "xz", "ys", "yz"], after)


@rule("QLinearGlobalAveragePool", "QLinearAveragePool", why=_WINDOW, zero="x", domain=_MICROSOFT)
def qlinear_pool(view: View) -> str:
    """Pools on codes; channels pass."""
    rank = view.rank(0)
    channel = rank - 1 if view.attr("channels_last", 0) else 1
    x = ["n" if i == 0 else "c" if i == channel else "!" for i in range(rank)]
    y = ["1" if name == "!" and size == 1 else name for name, size in zip(x, view.out_shape(), strict=True)]
    return _line(view, [operand("x", x), "xs", "xz", "ys", "yz"], operand("y", y))


@rule("QLinearConcat", domain=_MICROSOFT)
def qlinear_concat(view: View) -> str:
    """Concat on codes of different scales; its inputs stand in threes, after the result's scale and zero point."""
    names = spell(view.rank(2))
    axis = view.attr("axis") % len(names)
    parts = [f"{names[axis]}{k + 1}" for k in range((len(view.node.inputs) - 2) // 3)]
    inputs = [f"{operand(f'x{k + 1}', [*names[:axis], p, *names[axis + 1 :]])} s z" for k, p in enumerate(parts)]
    y = operand("y", [*names[:axis], f"[{' + '.join(parts)}]", *names[axis + 1 :]])
    return f"ys yz {' '.join(inputs)} -> {y}; zero {', '.join(f'x{k + 1}?' for k in range(len(parts)))}"
