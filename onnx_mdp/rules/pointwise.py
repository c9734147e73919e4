"""Operators that act on each element alone, with numpy broadcasting."""

from __future__ import annotations

from onnx_mdp.rules.registry import View, operand, rule, spell


def broadcast(view: View) -> str:
    """All inputs aligned at the right; an axis of size one against a longer one is left out of the equation."""
    out = view.out_shape()
    names = spell(len(out))
    operands = []
    for i, tensor in enumerate(view.node.inputs):
        if not tensor:
            operands.append("_")
            continue
        shape = view.shape(i)
        skip = len(out) - len(shape)
        axes = [n if s == f else "1" for n, s, f in zip(names[skip:], shape, out[skip:], strict=True)]
        operands.append(operand(f"x{i + 1}", axes))
    return f"{' '.join(operands)} -> {operand('y', names)}"


def unary(view: View) -> str:
    """The output has the input's axes; further inputs are scalars."""
    names = spell(view.rank(0))
    return f"{operand('x', names)} -> {operand('y', names)}"


for _op in (
    *("Abs", "Cast", "Ceil", "Celu", "Dropout", "Elu", "Erf", "Floor", "Gelu", "HardSwish", "Identity", "LeakyRelu"),
    *("Mish", "Neg", "Relu", "Round", "Selu", "Shrink", "Sign", "Sin", "Softsign", "Sqrt", "Swish", "Tanh"),
    *("Asin", "Asinh", "Atan", "Atanh", "CastLike", "Sinh", "Tan", "ThresholdedRelu"),
):
    rule(_op, zero="x")(unary)
for _op in (
    *("Acos", "Acosh", "BitwiseNot", "Cos", "Cosh", "Exp", "HardSigmoid", "IsInf", "IsNaN", "Not"),
    *("Sigmoid", "Softplus"),
):
    rule(_op)(unary)
for _op in ("Add", "Sub"):
    rule(_op, zero="x1, x2")(broadcast)
for _op in (
    *("And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Mod", "Or", "Xor"),
):
    rule(_op)(broadcast)
rule("Mul", zero="x1|x2")(broadcast)
rule("PRelu", zero="x1")(broadcast)
rule("Where", zero="x2, x3")(broadcast)


@rule("Max", "Mean", "Min", "Sum")
def variadic(view: View) -> str:
    """Any number of operands; zero where all of them are."""
    operands = ", ".join(f"x{i + 1}" for i in range(len(view.node.inputs)))
    return f"{broadcast(view)}; zero {operands}"


@rule("Div", zero="x1")
def divide(view: View) -> str:
    """Zero stays zero, unless it is divided by zero."""
    return f"{broadcast(view)}; nonzero x2"


@rule("Log", "Reciprocal")
def unary_beyond_zero(view: View) -> str:
    """There is no value at zero."""
    return f"{unary(view)}; nonzero x"


@rule("Pow")
def power(view: View) -> str:
    """Zero stays zero under a positive exponent."""
    exponent = view.network.values.get(view.node.inputs[1])
    positive = exponent is not None and bool((exponent > 0).all())
    return broadcast(view) + ("; zero x1" if positive else "; nonzero x1")


@rule("Clip")
def clip(view: View) -> str:
    """Zero stays zero when it lies between the bounds."""
    low, high = view.number(1, "min", -1e38), view.number(2, "max", 1e38)
    keeps_zero = low is not None and high is not None and low <= 0 <= high
    return unary(view) + ("; zero x" if keeps_zero else "")
