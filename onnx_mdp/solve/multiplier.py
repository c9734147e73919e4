"""The multiplier with the best Lagrangian bound.

In the plane of (spent, cost), a relaxation at multiplier m finds the plan that a line of slope -m touches from below.
The best m is the slope between a plan within the limit and one beyond it that are neighbors on the lower convex hull of
all plans (Handler and Zang, 1980). The slope between any two plans on either side of the limit is the secant's next
guess, which creeps up from one side, as the hull is steep at one end and flat at the other. What is spent is nearly
straight in the logarithm of m, so the next guess is along that line, and the secant's where that finds no new plan. The
search ends where the line through the plans on either side shows that no multiplier has a notably better bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

_MOST = 60
_STEEPEST = 700.0  # whose exponential is still a number
_FAR = 4  # times the distance of another plan from the limit


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
    bound = max(done.bound(limit) for done in found.values() if done.on_cost)
    again = 0  # evaluations in a row that found no new plan
    for _ in range(_MOST):
        slope = (within.cost - over.cost) / (over.spent - within.spent)
        reached = within.cost + slope * (within.spent - limit)  # by the best of all bounds, at most
        rounding = 1e-12 * (abs(within.cost) + slope * (abs(within.spent) + abs(limit)))
        if slope <= 0 or reached - bound <= max(rounding, notable * (within.cost - bound)):
            break
        guess = _guess(found, over, within, limit, again)
        multiplier = guess if over.on_spent < guess < within.on_spent else slope
        if multiplier in found:
            break
        done = found[multiplier] = at(multiplier)
        bound = max(bound, done.bound(limit))
        again = again + 1 if done.spent in (over.spent, within.spent) else 0
        over, within = (done, within) if done.spent > limit else (over, done)
    return dict(sorted(found.items()))


def _guess(found: Mapping[float, Relaxation], over: Relaxation, within: Relaxation, limit: float, again: int) -> float:
    """Where the line through the plans on either side of the limit meets it; 0 for a secant instead.

    Where one side creeps up to the limit while the other stays far away, farther than the line through the nearest two
    on that side says, the more so the more often no new plan came of it: to come out near the limit on the other side.
    """
    if not over.on_spent or not within.on_cost:
        return 0.0
    near, far = sorted((over, within), key=lambda one: abs(one.spent - limit))
    behind = [one for one in found.values() if one.on_cost and (one.spent - near.spent) * (near.spent - limit) > 0]
    second = min(behind, key=lambda one: abs(one.spent - limit), default=far)
    share = 1.0
    if second.on_spent and _FAR * abs(second.spent - limit) < abs(far.spent - limit):
        far, share = second, 2.0 * _FAR**again
    elif again:
        return 0.0
    rate = math.log(far.on_spent / near.on_spent) / (far.spent - near.spent)
    return near.on_spent * math.exp(min(share * rate * (limit - near.spent), _STEEPEST))


def best(found: dict[float, R], limit: float) -> float:
    """The multiplier with the best bound."""
    return max((m for m in found if math.isfinite(m)), key=lambda m: found[m].bound(limit))


def around(found: dict[float, R], multiplier: float, count: int) -> list[R]:
    """The relaxation at a multiplier, up to `count` on either side of it, and the one of spending alone."""
    keys = list(found)
    at = keys.index(multiplier)
    near = keys[max(0, at - count) : at] + keys[at + 1 : at + 1 + count]
    return [found[multiplier], *(found[m] for m in near if math.isfinite(m)), found[math.inf]]
