"""Linear maps along a factor are what the matrices of whole axes say, however the axis is composed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_mdp.axes.terms import Factor, Term, concat, leaves, prod
from onnx_mdp.runtime.base import Array
from onnx_mdp.streams.basis import along, centering, instances, principal, reflection, transferred

FACTOR = Factor(3)


def terms() -> st.SearchStrategy[Term]:
    """Axes of up to three levels that the factor may lie on."""
    leaf: st.SearchStrategy[Term] = st.one_of(st.just(FACTOR), st.builds(Factor, st.integers(2, 3)))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(concat), st.lists(inner, min_size=2, max_size=2).map(prod)
        ),
        max_leaves=5,
    )


def explicit(term: Term, matrix: Array) -> Array:
    """The matrix of a whole axis: blocks for a sum, a Kronecker product for a product."""
    if isinstance(term, Factor):
        return matrix if term is FACTOR else np.eye(term.size)
    parts = [explicit(part, matrix) for part in term.parts]
    whole = np.zeros((0, 0)) if "Sum" in type(term).__name__ else np.eye(1)
    for part in parts:
        if "Sum" in type(term).__name__:
            above = np.hstack([whole, np.zeros((len(whole), len(part)))])
            whole = np.vstack([above, np.hstack([np.zeros((len(part), len(whole))), part])])
        else:
            whole = np.kron(whole, part)
    return whole


@given(terms(), st.integers(0, 2**32 - 1))
def test_a_map_along_a_factor_is_a_matrix_along_the_axis(term: Term, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, values = rng.normal(size=(3, 3)), rng.normal(size=(2, term.size, 4))
    expected = np.einsum("ij,ajb->aib", explicit(term, matrix), values)
    np.testing.assert_allclose(along(values, 1, term, FACTOR, matrix), expected, atol=1e-12)


@given(terms())
def test_instances_are_the_positions_of_units(term: Term) -> None:
    found = instances(term, FACTOR)
    if list(leaves(term)).count(FACTOR) == 0:
        assert found.shape == (0, 3)
        return
    marks = explicit(term, np.diag([1.0, 2.0, 4.0])).diagonal()
    single = marks[found]  # another factor of a product may repeat the units
    ratios = single / single[:, :1]
    if "Prod" not in repr(term) or list(leaves(term)).count(FACTOR) == 1:
        np.testing.assert_allclose(ratios, np.broadcast_to([1.0, 2.0, 4.0], ratios.shape))
    assert len(np.unique(found)) == found.size


def test_numbers_of_units_are_transferred_between_axes() -> None:
    rows = prod([Factor(2), FACTOR])
    found = transferred(np.array([1.0, 2.0, 3.0]), FACTOR, rows, FACTOR)
    assert found is not None
    np.testing.assert_array_equal(found, [1, 2, 3, 1, 2, 3])
    back = transferred(found, rows, FACTOR, FACTOR)
    assert back is not None
    np.testing.assert_array_equal(back, [1, 2, 3])
    assert transferred(np.arange(6.0), rows, FACTOR, FACTOR) is None
    assert transferred(np.arange(3.0), FACTOR, concat([FACTOR, Factor(2)]), FACTOR) is None


def test_along_takes_the_width_that_is_left() -> None:
    other = Factor(5)
    term, matrix = concat([FACTOR, other]), np.array([[0.0, 1.0], [1.0, 0.0]])
    found = along(np.arange(4), 0, term, FACTOR, matrix, {FACTOR: 2, other: 2})
    np.testing.assert_array_equal(found, [1, 0, 2, 3])


@given(st.integers(1, 40))
def test_the_reflection_takes_the_last_unit_to_all_ones(width: int) -> None:
    matrix = reflection(width)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix @ matrix, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(matrix[-1], np.full(width, width**-0.5))
    np.testing.assert_allclose(centering(width) @ matrix[:, :-1], matrix[:, :-1], atol=1e-12)


@given(st.integers(2, 12), st.booleans(), st.integers(0, 2**32 - 1))
def test_principal_directions_are_a_basis_that_puts_the_strongest_first(width: int, centered: bool, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(50, width)) * np.arange(1, width + 1) + 1
    rows = rows @ centering(width) if centered else rows
    found = principal(rows.T @ rows, centered=centered)
    np.testing.assert_allclose(found @ found.T, np.eye(width), atol=1e-10)
    strength = np.square(rows @ found.T).sum(axis=0)
    assert (np.diff(strength) <= 1e-9 * strength.max()).all()
    if centered:
        np.testing.assert_allclose(found[-1], np.full(width, width**-0.5))
        np.testing.assert_allclose(strength[-1], 0, atol=1e-12 * strength[0])
