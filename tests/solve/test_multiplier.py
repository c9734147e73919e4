"""The search for the best multiplier, on plans that are given as points."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_mdp.solve import multiplier
from onnx_mdp.solve.multiplier import best, bracket


@dataclass
class Line:
    """The plan that a line of slope -on_spent touches from below."""

    on_cost: float
    on_spent: float
    least: float
    cost: float
    spent: float
    states: dict[int, int] = field(default_factory=dict)

    def bound(self, limit: float) -> float:
        return self.least - self.on_spent * limit


class Plans:
    """Plans as (spent, cost); counts how many multipliers are evaluated."""

    def __init__(self, spent: np.ndarray, cost: np.ndarray) -> None:
        self.spent, self.cost = spent, cost
        self.evaluated = 0

    def at(self, price: float) -> Line:
        self.evaluated += 1
        on_cost, on_spent = (1.0, price) if math.isfinite(price) else (0.0, 1.0)
        values = on_cost * self.cost + on_spent * self.spent
        first = int(np.lexsort((self.spent if on_cost else self.cost, values))[0])
        return Line(on_cost, on_spent, float(values[first]), float(self.cost[first]), float(self.spent[first]))

    def search(self, limit: float, notable: float) -> float:
        found = bracket(self.at, [0.0, math.inf], limit, notable)
        return found[best(found, limit)].bound(limit)

    def best_bound(self, limit: float) -> float:
        """The least cost at the limit on the lower hull: of all chords over it, and of plans on it."""
        over, within = self.spent > limit, self.spent <= limit
        dx = self.spent[over][:, None] - self.spent[within][None, :]
        share = (self.spent[over][:, None] - limit) / dx
        chords = share * self.cost[within][None, :] + (1 - share) * self.cost[over][:, None]
        return float(chords.min())


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(0.02, 0.98))
def test_finds_the_best_bound(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    spent, cost = np.sort(rng.uniform(1, 10, count)), np.sort(rng.uniform(1, 10, count))[::-1]
    plans = Plans(spent, cost)
    limit = spent[0] + share * (spent[-1] - spent[0])
    assert plans.search(limit, 0.0) == pytest.approx(plans.best_bound(limit), rel=1e-9)


def test_takes_fewer_evaluations_than_secants_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a hull that is steep at one end and flat at the other, as those of networks are."""
    shares = (0.05, 0.15, 0.3, 0.5, 0.85)
    spent = np.linspace(0.01, 1, 20_000)
    plans, alone = Plans(spent, 1 / spent), Plans(spent, 1 / spent)
    bounds = [plans.search(share, 1e-2) for share in shares]
    monkeypatch.setattr(multiplier, "_guess", lambda *_: 0.0)
    assert bounds == pytest.approx([alone.search(share, 1e-2) for share in shares], rel=1e-2)
    assert plans.evaluated < alone.evaluated


def test_a_plan_that_stays_for_long_is_stepped_over() -> None:
    """One plan is the best for a range of multipliers, next to a limit that it nearly reaches; the others are far."""
    spent = np.array([1.0, 2.0, 3.0, 4.999999, 9.0, 10.0])
    cost = np.array([1e9, 1e6, 1e3, 1.0, 1e-9, 0.0])
    plans = Plans(spent, cost)
    assert plans.search(5.0, 0.0) == pytest.approx(plans.best_bound(5.0), rel=1e-9)
    assert plans.evaluated < 20
