"""Terms: sizes, surviving positions and folding agree with arrays of unit numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_mdp.axes.terms import (
    UNIT,
    Factor,
    Prod,
    Sum,
    Term,
    addends,
    concat,
    factors,
    fold,
    fresh,
    keep,
    leaves,
    prod,
    size,
    units,
)


@st.composite
def terms(draw: st.DrawFn, depth: int = 2, pool: list[Factor] | None = None) -> Term:
    """A random term whose factors may occur more than once."""
    pool = pool if pool is not None else [Factor(draw(st.integers(2, 4))) for _ in range(3)]
    kind = draw(st.sampled_from(["factor", "prod", "sum"])) if depth else "factor"
    if kind == "factor":
        return draw(st.sampled_from([*pool, fresh(draw(st.integers(1, 3)))]))
    parts = [draw(terms(depth - 1, pool)) for _ in range(draw(st.integers(1, 3)))]
    return prod(parts) if kind == "prod" else concat(parts)


def owners(term: Term, leaf: Factor) -> list[set[int]]:
    """For every position the units of `leaf` that it belongs to, by enumeration."""
    if term is leaf:
        return [{unit} for unit in range(leaf.size)]
    if isinstance(term, Factor):
        return [set() for _ in range(term.size)]
    if isinstance(term, Sum):
        return [entry for part in term.parts for entry in owners(part, leaf)]
    rows: list[set[int]] = [set()]
    for part in term.parts:
        rows = [row | entry for row in rows for entry in owners(part, leaf)]
    return rows


def test_normal_form() -> None:
    a, b = Factor(2), Factor(3)
    assert prod([a, UNIT, prod([b])]) == Prod((a, b))
    assert concat([concat([a, b]), a]) == Sum((a, b, a))
    assert prod([a]) is a
    assert concat([a]) is a
    assert fresh(1) == UNIT
    assert factors(a) == (a,) == addends(a)
    assert prod([a, b]).size == 6
    assert concat([a, b]).size == 5


@given(terms(), st.data())
def test_keep_and_size_agree_with_enumeration(term: Term, data: st.DataObject) -> None:
    kept = {
        leaf: np.array(sorted(data.draw(st.sets(st.integers(0, leaf.size - 1), min_size=0))), dtype=np.int64)
        for leaf in dict.fromkeys(leaves(term))
    }
    owned = {leaf: owners(term, leaf) for leaf in kept}
    expected = [
        position
        for position in range(term.size)
        if all(owned[leaf][position] <= set(units.tolist()) for leaf, units in kept.items())
    ]
    assert keep(term, kept).tolist() == expected
    assert size(term, {leaf: len(found) for leaf, found in kept.items()}) == len(expected)


@given(terms(), st.data())
def test_fold_and_units_agree_with_enumeration(term: Term, data: st.DataObject) -> None:
    if not list(leaves(term)):
        return
    leaf = data.draw(st.sampled_from(list(leaves(term))))
    values = np.arange(1.0, term.size + 1)
    expected = np.zeros(leaf.size)
    for position, owned in enumerate(owners(term, leaf)):
        for unit in owned:
            expected[unit] += values[position]
    if all(len(owned) <= 1 for owned in owners(term, leaf)):  # a position counted by two factors is counted twice
        assert fold(term, leaf, values).tolist() == expected.tolist()
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, leaf.size - 1)))), dtype=np.int64)
    assert units(term, leaf, keep(term, {leaf: chosen})).tolist() == chosen.tolist() or any(
        len(owned) > 1 for owned in owners(term, leaf)
    )
