"""Operators of com.microsoft that ONNX Runtime's optimizer makes of standard ones."""

from __future__ import annotations

from onnx_mdp.rules.linear import conv, gemm, product
from onnx_mdp.rules.pointwise import broadcast, unary
from onnx_mdp.rules.registry import Refusal, View, operand, rule, spell
from onnx_mdp.rules.statistic import NORMALIZED, rms_normalization

_MICROSOFT = "com.microsoft"
_KEEPS_ZERO = {"", "Relu", "LeakyRelu", "Tanh", "Elu", "Selu", "Softsign", "HardSwish"}

rule("Gelu", "QuickGelu", zero="x", domain=_MICROSOFT)(unary)
rule("SimplifiedLayerNormalization", zero="x|scale", domain=_MICROSOFT)(rms_normalization)


@rule("BiasGelu", "FastGelu", domain=_MICROSOFT)
def bias_gelu(view: View) -> str:
    """Gelu of a sum with an optional bias."""
    return f"{broadcast(view)}; zero {'x1, x2' if view.has(1) else 'x1'}"


def _activated(view: View, line: str | Refusal, zero: str) -> str | Refusal:
    """A line whose operator applies an activation: zero passes where that keeps it."""
    if isinstance(line, Refusal):
        return line
    return line + (f"; zero {zero}" if view.attr("activation", "") in _KEEPS_ZERO else "")


@rule("FusedConv", domain=_MICROSOFT, why="the window slides along it")
def fused_conv(view: View) -> str | Refusal:
    """Conv, an optional tensor added to its result, and an activation."""
    line = conv(view)
    if not view.has(3):
        return _activated(view, line, "x|w, b")
    before, _, after = line.partition(" -> ")
    y = after.partition(";")[0]
    bias = "" if view.has(2) else " _"
    return _activated(view, f"{before}{bias} z{y[1:]} -> {after}", "x|w, b, z")


@rule("FusedGemm", domain=_MICROSOFT)
def fused_gemm(view: View) -> str | Refusal:
    """Gemm and an activation."""
    return _activated(view, gemm(view), "x|w, b")


@rule("FusedMatMul", domain=_MICROSOFT, zero="x|w")
def fused_matmul(view: View) -> str:
    """MatMul of possibly transposed factors: the last two axes exchanged, the rows moved before the leading axes."""
    outer = [bool(view.attr(name, 0)) and view.rank(i) > 2 for i, name in enumerate(("transBatchA", "transBatchB"))]
    leads = [view.shape(i)[1:-1] if outer[i] else view.shape(i)[:-2] for i in (0, 1)]
    x, w, arrow, y = product(view, leads).split(" ")
    if view.attr("transA", 0) and view.rank(0) > 1:
        x = _swapped(x)
    if view.attr("transB", 0) and view.rank(1) > 1:
        w = _swapped(w)
    return " ".join((_outermost(x) if outer[0] else x, _outermost(w) if outer[1] else w, arrow, y))


def _swapped(text: str) -> str:
    """An operand with its last two axes exchanged."""
    name, names = _named(text)
    return operand(name, [*names[:-2], names[-1], names[-2]])


def _outermost(text: str) -> str:
    """An operand with its last axis but one moved to the front."""
    name, names = _named(text)
    return operand(name, [names[-2], *names[:-2], names[-1]])


def _named(text: str) -> tuple[str, list[str]]:
    """An operand's name and its axes."""
    name, _, axes = text[:-1].partition("[")
    return name, axes.split(",")


@rule("SkipLayerNormalization", domain=_MICROSOFT, why=NORMALIZED)
def skip_layer_normalization(view: View) -> str:
    """LayerNormalization of a sum; the sum may be an output too."""
    names = spell(view.rank(0))
    *lead, last = names
    inputs = [operand("x", [*lead, f"!{last}"]), operand("skip", _aligned(view, 1, names))]
    inputs += [f"{name}[{last}]" if view.has(i) else "_" for i, name in ((2, "gamma"), (3, "beta"), (4, "bias"))]
    return f"{' '.join(inputs[: len(view.node.inputs)])} -> {_sum_outputs(view, names)}"


@rule("SkipSimplifiedLayerNormalization", domain=_MICROSOFT)
def skip_rms_normalization(view: View) -> str:
    """RMS normalization of a sum; the sum may be an output too."""
    names = spell(view.rank(0))
    last = names[-1]
    inputs = [operand("x", names), operand("skip", _aligned(view, 1, names)), f"gamma[{last}]"]
    inputs += [f"bias[{last}]"] if view.has(3) else []
    line = f"{' '.join(inputs)} -> {_sum_outputs(view, names)}; over x {last}; over skip {last}"
    return f"{line}; times gamma |{last}|^-0.5; times epsilon |{last}|^-1; zero x, skip"


def _aligned(view: View, i: int, names: list[str]) -> list[str]:
    """The names of a tensor's axes, aligned at the right; one that is broadcast has size one."""
    skip = len(names) - view.rank(i)
    pairs = zip(names[skip:], view.shape(i), view.shape(0)[skip:], strict=True)
    return [name if size == full else "1" for name, size, full in pairs]


def _sum_outputs(view: View, names: list[str]) -> str:
    """The result and, as the fourth output, the sum; the statistics between are not followed."""
    shown = {0: operand("y", names), 3: operand("sum", names)}
    return " ".join(shown.get(i, "_") if name else "_" for i, name in enumerate(view.node.outputs))


@rule("EmbedLayerNormalization", domain=_MICROSOFT, why=NORMALIZED)
def embed_layer_normalization(view: View) -> str:
    """The sum of three embedding tables, normalized; all of them lie along the hidden axis."""
    names = ("ids", "segments", "words", "positions", "segment_table", "gamma", "beta", "mask", "position_ids")
    shown = ["_" if not view.has(i) else operand(names[i], ["!"] * view.rank(i)) for i in range(len(view.node.inputs))]
    for i in (i for i in range(2, 7) if view.has(i)):
        shown[i] = operand(names[i], [*["!"] * (view.rank(i) - 1), "!c"])
    outputs = ["y[n,s,!c]" if i == 0 else "_" for i, _ in enumerate(view.node.outputs)]
    return f"{' '.join(shown)} -> {' '.join(outputs)}"
