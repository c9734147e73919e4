"""The text form of an operator's rule: one line of equations between axes.

    x[n,(g:2 i),!,!] w[(g o),i,!,!] b[(g o)] -> y[n,(g o),!,!]; group = |g|; zero x|w, b

Operands stand in the order of the node's inputs and outputs; one without brackets is not followed (an integer
parameter, or one that is absent). Within brackets, one expression per axis:

    c            a factor; the same letter is the same factor everywhere in the line
    (a b)        product, the last part varying fastest       [a + b]   sum
    1            a size-one axis                              c:16      a factor of known size
    !c, !        what may not shrink; without an expression, a factor of its own

Clauses after the arrow:

    (a b) = (c d)            an equation more
    shape[2] = |c|           the parameter's element (an input's, or an attribute's) holds the size of c
    group = |g|              likewise for a scalar attribute
    zero x|w, b              the output is zero wherever (x or w) is zero and b is; `x?` asks only operands that
                             carry the axis; `_` is zero in any case
    nonzero w                the result is no number where w is zero
    over q|k c               c is summed over although an output or a bias carries it: exact where q or k is zero
    times y |c|^-0.5         what target y has to be multiplied with when c shrinks: a power of the ratio of sizes
    point w wz ws            w holds codes (w - wz) ws of numbers; both operands may be absent, `_` stands for the first
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_KNOWN = 512  # lines: a network has fewer different ones than nodes


@dataclass(frozen=True, slots=True)
class Letter:
    """A named factor; `size` where the line states it."""

    name: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major product of expressions; the empty one is a size-one axis."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Concatenation:
    """Expressions one after the other."""

    parts: tuple[Expr, ...]


Expr = Letter | Product | Concatenation


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of an operand; `frozen` are the parts of it that may not shrink."""

    expr: Expr
    frozen: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of the node; `axes` is None when its axes are not followed."""

    name: str
    axes: tuple[Axis, ...] | None


@dataclass(frozen=True, slots=True)
class Size:
    """`target[index]` holds the size of `expr`; `index` is None for a scalar attribute."""

    target: str
    index: int | None
    expr: Expr


@dataclass(frozen=True, slots=True)
class Over:
    """`expr` is summed over, and `operands` are the factors of what is summed."""

    operands: tuple[str, ...]
    expr: Expr


@dataclass(frozen=True, slots=True)
class Times:
    """An operand, or a float attribute, that is multiplied with a power of the ratio by which `expr` shrinks."""

    target: str
    expr: Expr
    power: float


@dataclass(frozen=True, slots=True)
class Point:
    """An operand of codes, and the operands of their zero point and scale ("" where there is none)."""

    operand: str
    zero: str
    scale: str


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed rule."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    equations: tuple[tuple[Expr, Expr], ...] = ()
    sizes: tuple[Size, ...] = ()
    zero: tuple[tuple[str, ...], ...] | None = None
    nonzero: tuple[str, ...] = ()
    overs: tuple[Over, ...] = ()
    times: tuple[Times, ...] = ()
    points: tuple[Point, ...] = ()


def letters(expr: Expr) -> Iterator[Letter]:
    """Every letter of an expression."""
    if isinstance(expr, Letter):
        yield expr
        return
    for part in expr.parts:
        yield from letters(part)


@lru_cache(_KNOWN)
def parse(text: str) -> Line:
    """The rule a line of text states, one object for equal lines; ValueError where it breaks the grammar."""
    signature, *clauses = (part.strip() for part in text.split(";"))
    before, arrow, after = signature.partition("->")
    if not arrow:
        raise ValueError(f"no -> in rule {text!r}")
    found: dict[str, list[Any]] = {}
    for clause in clauses:
        kind, entry = _clause(clause)
        found.setdefault(kind, []).append(entry)
    return Line(
        inputs=_operands(before),
        outputs=_operands(after),
        equations=tuple(found.get("equation", ())),
        sizes=tuple(found.get("size", ())),
        zero=found["zero"][-1] if "zero" in found else None,
        nonzero=tuple(found.get("nonzero", ())),
        overs=tuple(found.get("over", ())),
        times=tuple(found.get("times", ())),
        points=tuple(found.get("point", ())),
    )


def _clause(text: str) -> tuple[str, Any]:
    """The kind of a clause and what it states."""
    kind, _, rest = text.partition(" ")
    match kind:
        case "zero":
            return kind, tuple(tuple(part.strip().split("|")) for part in rest.split(","))
        case "nonzero":
            return kind, rest
        case "over":
            names, _, expr = rest.partition(" ")
            return kind, Over(tuple(names.split("|")), _Reader(expr).expr())
        case "times":
            match = re.fullmatch(r"(\w+) \|(.+)\|\^(\S+)", rest)
            if not match:
                raise ValueError(f"malformed clause {text!r}")
            return kind, Times(match.group(1), _Reader(match.group(2)).expr(), float(match.group(3)))
        case "point":
            weight, zero_point, scale = [*rest.split(), "", ""][:3]
            return kind, Point(weight, zero_point.strip("_"), scale)
    if "|" in text:
        return "size", _size(text)
    left, right = text.split(" = ")
    return "equation", (_Reader(left).expr(), _Reader(right).expr())


def _operands(text: str) -> tuple[Operand, ...]:
    operands, rest = [], text.strip()
    while rest:
        match = re.match(r"[A-Za-z_]\w*", rest)
        if not match:
            raise ValueError(f"expected an operand at {rest!r}")
        rest = rest[match.end() :]
        axes = None
        if rest.startswith("["):
            reader = _Reader(rest, owner=match.group())
            axes = reader.axes()
            rest = rest[reader.position() :]
        operands.append(Operand(match.group(), axes))
        rest = rest.strip()
    return tuple(operands)


def _size(clause: str) -> Size:
    match = re.fullmatch(r"(\w+)(?:\[(\d+)\])? = \|(.+)\|", clause)
    if not match:
        raise ValueError(f"malformed clause {clause!r}")
    name, index, expr = match.groups()
    return Size(name, None if index is None else int(index), _Reader(expr).expr())


class _Reader:
    """Recursive descent over the tokens of one expression or axis list."""

    def __init__(self, text: str, owner: str = "") -> None:
        self._owner = owner
        self._tokens = [(m.group(), m.end()) for m in re.finditer(r"[A-Za-z_]\w*|\d+|[^\s\w]", text)]
        self._at = 0
        self._frozen: list[Expr] = []

    def position(self) -> int:
        return self._tokens[self._at - 1][1]

    def axes(self) -> tuple[Axis, ...]:
        self._take("[")
        axes: list[Axis] = []
        while self._peek() != "]":
            self._frozen = []
            axes.append(Axis(self.expr(), tuple(self._frozen)))
            if self._peek() != "]":
                self._take(",")
        self._take("]")
        return tuple(axes)

    def expr(self) -> Expr:
        if self._skip("!"):
            bare = self._peek() in (",", "]")
            self._frozen.append(Letter(f"!{self._owner}{self._at}") if bare else self.expr())
            return self._frozen[-1]
        if self._skip("("):
            parts = []
            while not self._skip(")"):
                parts.append(self.expr())
            return Product(tuple(parts))
        if self._skip("["):
            parts = [self.expr()]
            while self._skip("+"):
                parts.append(self.expr())
            self._take("]")
            return Concatenation(tuple(parts))
        name = self._next()
        if name == "1":
            return Product(())
        return Letter(name, int(self._next()) if self._skip(":") else None)

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        self._at += 1
        if self._at > len(self._tokens):
            raise ValueError("the rule ends in the middle of an expression")
        return self._tokens[self._at - 1][0]

    def _skip(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._at += 1
        return True

    def _take(self, token: str) -> None:
        if (found := self._next()) != token:
            raise ValueError(f"expected {token!r}, found {found!r}")
