"""The elimination equals least squares done anew after every step."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_mdp.axes.terms import Factor, Prod, Sum
from onnx_mdp.importance.elimination import Layer, eliminate
from onnx_mdp.importance.reconstruction import unit_columns


def problem(units: int, per_unit: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    k = units * per_unit
    x = rng.normal(size=(50 * k, k)) @ rng.normal(size=(k, k))
    return x.T @ x / len(x), rng.normal(size=(k, 4)), np.arange(k).reshape(units, per_unit)


def best_loss(covariance: np.ndarray, weights: np.ndarray, kept: np.ndarray) -> float:
    """Relative error of the best weights that use the kept columns only, with the covariance damped as there."""
    covariance = covariance + 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    sub = covariance[np.ix_(kept, kept)]
    fitted = np.zeros_like(weights)
    fitted[kept] = np.linalg.solve(sub, covariance[kept] @ weights)
    gap = weights - fitted
    return float(np.trace(gap.T @ covariance @ gap) / np.trace(weights.T @ covariance @ weights))


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2, 1.0])
def test_inputs_that_hardly_vary_do_no_harm(noise: float) -> None:
    """Rounding makes the covariance of what is nearly constant indefinite; units that are constant go first."""
    rng = np.random.default_rng(3)
    covariance, weights, columns = problem(40, 1)
    covariance[:10] = covariance[:, :10] = 0
    rounding = rng.normal(size=covariance.shape)
    covariance += noise * np.abs(covariance).max() * (rounding + rounding.T)
    found = eliminate([Layer(covariance, weights, columns, 1.0)], [], 40)
    losses = found.losses[0]
    assert np.isfinite(losses).all()
    assert (np.diff(losses) <= 1e-9).all()
    assert losses[40] == 0
    if not noise:
        assert sorted(found.order[30:]) == list(range(10))


@pytest.mark.parametrize(("units", "per_unit"), [(7, 1), (5, 3), (60, 1)])
def test_losses_are_those_of_least_squares(units: int, per_unit: int) -> None:
    covariance, weights, columns = problem(units, per_unit)
    found = eliminate([Layer(covariance, weights, columns, 1.0)], [], units)
    for width in (units - 1, units // 2, 1):
        kept = np.sort(columns[found.order[:width]].ravel())
        assert found.losses[0][width] == pytest.approx(best_loss(covariance, weights, kept), rel=1e-6)
    assert found.losses[0][units] == 0
    assert found.losses[0][0] == pytest.approx(1)


def test_the_first_to_go_is_the_cheapest() -> None:
    covariance, weights, columns = problem(6, 2)
    found = eliminate([Layer(covariance, weights, columns, 1.0)], [], 6)
    others = [np.delete(np.arange(12), columns[u]) for u in range(6)]
    costs = [best_loss(covariance, weights, kept) for kept in others]
    assert found.order[-1] == int(np.argmin(costs))


def test_a_copy_costs_nothing_as_the_other_takes_its_weight() -> None:
    covariance, weights, columns = problem(6, 1)
    covariance[5], covariance[:, 5] = covariance[2], covariance[:, 2]
    covariance[5, 5] = covariance[2, 2]
    found = eliminate([Layer(covariance, weights, columns, 1.0)], [], 6)
    assert found.order[-1] in (2, 5)
    assert found.losses[0][5] < 0.01


def test_layers_count_by_their_share_and_fixed_costs_add() -> None:
    first, second = problem(5, 1), problem(5, 1, seed=1)
    fixed = np.array([0, 0, 0, 100.0, 0])
    layers = [Layer(*first, 0.75), Layer(*second, 0.25)]
    found = eliminate(layers, [fixed], 5)
    assert [losses[0] for losses in found.losses] == pytest.approx([0.75, 0.25, 100])
    assert found.order[0] == 3
    assert sorted(found.order.tolist()) == [0, 1, 2, 3, 4]


def test_columns_of_units_in_sums_and_products() -> None:
    heads, width, other = Factor(2), Factor(3), Factor(4)
    term = Sum((other, Prod((heads, width))))
    by_head = unit_columns(term, heads, groups=1, columns=20)  # two columns a position
    assert by_head[0].tolist() == [list(range(8, 14)), list(range(14, 20))]
    by_width = unit_columns(term, width, groups=1, columns=10)
    assert by_width[0].tolist() == [[4, 7], [5, 8], [6, 9]]


def test_columns_of_units_in_the_groups_of_a_convolution() -> None:
    groups, each = Factor(2), Factor(3)
    found = unit_columns(Prod((groups, each)), each, groups=2, columns=3)
    assert {g: columns.tolist() for g, columns in found.items()} == {0: [[0], [1], [2]], 1: [[0], [1], [2]]}
