"""The multiplier with the best Lagrangian bound.

In the plane of (spent, cost), a relaxation at multiplier m finds the plan that a line of slope -m touches from below.
The best m is the slope between a plan within the limit and one beyond it that are neighbors on the lower convex hull of
all plans; a secant search finds them in a few evaluations (Handler and Zang, 1980). It ends where the line through both
shows that no multiplier has a notably better bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

_MOST = 60


class Relaxation(Protocol):
    """A relaxation at one multiplier: the least weighted sum, and a plan that attains it."""

    on_cost: float
    on_spent: float
    least: float
    states: dict[int, int]
    cost: float
    spent: float

    def bound(self, limit: float) -> float:
        """No plan that spends at most `limit` costs less."""
        ...


R = TypeVar("R", bound=Relaxation)


def bracket(at: Callable[[float], R], known: Sequence[float], limit: float, notable: float) -> dict[float, R]:
    """Relaxations by multiplier, in growing order, around the one with the best bound.

    Args:
        at: evaluates a multiplier; infinite stands for spending alone.
        known: multipliers in growing order to look between first, from 0, whose plan must exceed the limit, to
            infinity, whose plan must not.
        limit: what a plan may spend.
        notable: share of the distance between the bound and a plan that another multiplier's bound must promise.
    """
    low, high = 0, len(known) - 1
    found = {known[low]: at(known[low]), known[high]: at(known[high])}
    while high - low > 1:
        middle = (low + high) // 2
        found[known[middle]] = at(known[middle])
        low, high = (middle, high) if found[known[middle]].spent > limit else (low, middle)
    over, within = found[known[low]], found[known[high]]
    for _ in range(_MOST):
        multiplier = (within.cost - over.cost) / (over.spent - within.spent)
        if multiplier <= 0 or multiplier in found:
            break
        middle_one = found[multiplier] = at(multiplier)
        line = within.cost + multiplier * within.spent
        rounding = 1e-12 * (abs(line) + abs(within.cost))
        if line - middle_one.least <= max(rounding, notable * (within.cost - middle_one.bound(limit))):
            break
        over, within = (middle_one, within) if middle_one.spent > limit else (over, middle_one)
    return dict(sorted(found.items()))


def best(found: dict[float, R], limit: float) -> float:
    """The multiplier with the best bound."""
    return max((m for m in found if math.isfinite(m)), key=lambda m: found[m].bound(limit))


def around(found: dict[float, R], multiplier: float, count: int) -> list[R]:
    """The relaxation at a multiplier, up to `count` on either side of it, and the one of spending alone."""
    keys = list(found)
    at = keys.index(multiplier)
    near = keys[max(0, at - count) : at] + keys[at + 1 : at + 1 + count]
    return [found[multiplier], *(found[m] for m in near if math.isfinite(m)), found[math.inf]]
