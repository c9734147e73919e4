"""From a rule's letters to terms: the size of every letter, and the term of every expression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx_mdp.axes.terms import Term, concat, prod
from onnx_mdp.rules.line import Concatenation, Expr, Letter, Line, Operand, letters


def build(expr: Expr, terms: Mapping[str, Term]) -> Term:
    """The term of an expression, given those of its letters."""
    if isinstance(expr, Letter):
        return terms[expr.name]
    parts = [build(part, terms) for part in expr.parts]
    return concat(parts) if isinstance(expr, Concatenation) else prod(parts)


def letter_sizes(line: Line, operands: Sequence[tuple[Operand, tuple[int, ...]]]) -> dict[str, int]:
    """The size of every letter of a line, from the shapes of its operands."""
    known: dict[str, int] = {}
    pending = [(a.expr, s) for op, shape in operands for a, s in zip(op.axes or (), shape, strict=True)]
    for expr, _ in pending:
        known.update((letter.name, letter.size) for letter in letters(expr) if letter.size is not None)
    while pending:
        left = [(expr, size) for expr, size in pending if not _solve(expr, size, known)]
        if len(left) == len(pending):
            raise ValueError(f"the sizes of {[str(e) for e, _ in left]} do not follow from the shapes")
        pending = left
    return known


def _solve(expr: Expr, size: int, known: dict[str, int]) -> bool:
    """Derive the expression's letters from its size; False while more than one part is unknown."""
    if isinstance(expr, Letter):
        known.setdefault(expr.name, size)
        return True
    unknown = [part for part in expr.parts if any(letter.name not in known for letter in letters(part))]
    if len(unknown) > 1:
        return False
    for part in unknown:
        rest = [_size(other, known) for other in expr.parts if other is not part]
        return _solve(part, size - sum(rest) if isinstance(expr, Concatenation) else size // math.prod(rest), known)
    return True


def _size(expr: Expr, known: Mapping[str, int]) -> int:
    if isinstance(expr, Letter):
        return known[expr.name]
    sizes = [_size(part, known) for part in expr.parts]
    return sum(sizes) if isinstance(expr, Concatenation) else math.prod(sizes)
