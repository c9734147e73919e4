"""The Lagrangian relaxation of a program's one budget, solved exactly for any multiplier.

With the budget priced at m, the program splits along its buckets: one pass up the tree gives the least of
cost + m * spent and states that attain it. Least minus m * limit bounds every plan within the limit from below, and the
best multiplier is where the straight line through a plan within the limit and one beyond it touches the lower convex
hull of all plans (Handler and Zang, 1980). A pass down the tree adds, for every entry of every bucket, the least over
all plans that go through it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.solve.buckets import Bucket, Child, Part, Plan
from onnx_mdp.solve.factors import Floats, Function

_PIECE = 1 << 16  # entries that fit a processor's cache


@dataclass(eq=False)
class Pass:
    """All messages at weights (`on_cost`, `on_spent`), the least weighted sum, and a plan that attains it."""

    on_cost: float
    on_spent: float
    up: list[Floats]
    least: float
    states: dict[int, int]
    cost: float
    spent: float

    def bound(self, limit: float) -> float:
        """No plan that spends at most `limit` costs less."""
        return self.least - self.on_spent * limit


def go_up(plan: Plan, on_cost: float, on_spent: float) -> Pass:
    """The least weighted sum of cost and spending, and a plan that attains it."""
    up: list[Floats] = []
    for bucket in plan.buckets:
        up.append(_eliminated(bucket, up, on_cost, on_spent))
    least = float(up[-1])
    none: tuple[dict[int, int], float, float] = ({}, np.inf, np.inf)  # where no plan meets the links
    states, cost, spent = _trace(plan, up, on_cost, on_spent) if np.isfinite(least) else none
    return Pass(on_cost, on_spent, up, least, states, cost, spent)


def go_down(plan: Plan, done: Pass, thresholds: Sequence[float]) -> list[NDArray[np.uint8]]:
    """For each entry of each bucket, how many of the thresholds the least weighted sum of plans through it exceeds."""
    every = range(len(plan.buckets))[::-1]
    return [_exceeded(whole, thresholds) for whole in _wholes(plan, done, every)][::-1]


def _exceeded(whole: Floats, thresholds: Sequence[float]) -> NDArray[np.uint8]:
    count = np.zeros(whole.size, np.uint8)
    for first in range(0, whole.size, _PIECE):
        piece = slice(first, first + _PIECE)
        for threshold in thresholds:
            count[piece] += whole.ravel()[piece] > threshold
    return count.reshape(whole.shape)


def _eliminated(bucket: Bucket, up: list[Floats], on_cost: float, on_spent: float) -> Floats:
    """The least of a bucket's table over its own variable, slab by slab."""
    wholes = (table(slab, up, on_cost, on_spent) for slab in bucket.slabs)
    return np.asarray(reduce(np.minimum, (whole[0] if len(whole) == 1 else whole.min(axis=0) for whole in wholes)))


def through(plan: Plan, done: Pass, variable: int) -> Floats:
    """For each state of a variable that has a bucket, the least weighted sum of the plans that go through it."""
    whole = deque(_wholes(plan, done, plan.down_to(plan.numbers[variable])), maxlen=1).pop()
    return np.asarray(whole.reshape(len(whole), -1).min(axis=1))


def _wholes(plan: Plan, done: Pass, numbers: Sequence[int]) -> Iterator[Floats]:
    """For each of the buckets, the least weighted sum of the plans that go through each entry; parents come first."""
    down: list[Floats] = [np.zeros(())] * len(plan.buckets)
    wanted = set(numbers)
    for number in numbers:
        bucket = plan.buckets[number]
        whole = table(bucket, done.up, done.on_cost, done.on_spent)
        whole += down[number]
        yield whole
        for children in bucket.alike:
            if any(child.bucket in wanted for child in children):
                least = _least(whole, children[0])
                for child in children:
                    down[child.bucket] = _outside(least, child, done.up[child.bucket])


def table(bucket: Bucket, up: list[Floats], on_cost: float, on_spent: float) -> Floats:
    """The weighted sum of everything in a bucket, over its scope."""
    whole: Floats | None = None
    for part in bucket.parts:
        weighted = _weighted(part, on_cost, on_spent)
        if whole is None and weighted.shape == bucket.shape:
            whole = weighted
            continue
        whole = np.zeros(bucket.shape) if whole is None else whole
        whole[part.where] += weighted
    whole = np.zeros(bucket.shape) if whole is None else whole
    for children in bucket.alike:
        whole[children[0].where] += reduce(np.add, (_message(child, up[child.bucket]) for child in children))
    return whole


def _message(child: Child, message: Floats) -> Floats:
    if child.plain:
        return message.reshape(child.shape)
    return message.ravel()[child.states].reshape(child.shape)


def _weighted(part: Part, on_cost: float, on_spent: float) -> Floats:
    """A part's own weighted sum, always a new array."""
    total: Floats | None = None
    for weight, values in ((on_spent, part.spent), (on_cost, part.cost), (1.0, part.hard)):
        if values is None or not weight:
            continue
        if total is None:
            total = weight * values
        elif weight == 1.0:
            total += values
        else:
            total += weight * values
    return np.zeros((1,) * len(part.where)) if total is None else total


def _least(whole: Floats, child: Child) -> Floats:
    """The least over the axes that a message is not over."""
    view = whole[child.where]
    rest = tuple(axis for axis in range(view.ndim) if axis not in child.axes)
    return np.asarray(view.min(axis=rest)) if rest else view


def _outside(least: Floats, child: Child, message: Floats) -> Floats:
    """The least over all plans that take each state of a message, less the message itself."""
    if not child.plain:
        spread = np.full(message.size, np.inf)
        np.minimum.at(spread, child.states.ravel(), least.ravel())
        least = spread
    with np.errstate(invalid="ignore"):
        outside = least.reshape(message.shape) - message
    return np.where(np.isnan(outside), np.inf, outside)  # a forbidden state is infinite less infinite


def _trace(plan: Plan, up: list[Floats], on_cost: float, on_spent: float) -> tuple[dict[int, int], float, float]:
    """States that attain the least weighted sum, what they cost and what they spend."""
    states: dict[int, int] = {}
    cost = spent = 0.0
    for number in reversed(range(len(plan.buckets))):
        bucket = plan.buckets[number]
        for target in reversed(plan.replaced.get(number + 1, ())):
            states[target] = _result(plan.model.functions[target], states)
        if bucket.gate is not None and not all(states[gate] for gate in plan.model.paths[bucket.gate]):
            states[bucket.variable] = 0  # its block is gone
            continue
        fixed = [states[v] for v in bucket.scope[1:]]
        costs, spending, rest = _column(bucket, up, fixed)
        states[bucket.variable] = best = int((on_cost * costs + on_spent * spending + rest).argmin())
        cost += float(costs[best])
        spent += float(spending[best])
    return states, cost, spent


def _column(bucket: Bucket, up: list[Floats], fixed: Sequence[int]) -> Floats:
    """A bucket's table at given states of the other variables: what its parts cost, what they spend, and the rest."""
    rows = np.zeros((3, bucket.shape[0]))
    for part in bucket.parts:
        if all(fixed[gate - 1] for gate in part.gates):
            spots: tuple[slice | int, ...] = (slice(None), *[fixed[axis - 1] for axis in part.axes])
            for row, values in zip(rows, part.columns, strict=True):
                if values is not None:
                    row[part.where[0]] += values[spots]
    rest = rows[2]
    for child in bucket.children:
        if all(fixed[gate - 1] for gate in child.gates):
            rest[child.where[0]] += child.read(up[child.bucket], fixed)
    return rows


def complete(plan: Plan, states: Mapping[int, int]) -> dict[int, int]:
    """The state of every variable: those that were replaced follow from their parts, the rest do not matter."""
    full = dict.fromkeys(range(len(plan.model.sizes)), 0) | dict(states)
    for number in sorted(plan.replaced, reverse=True):
        for target in reversed(plan.replaced[number]):
            full[target] = _result(plan.model.functions[target], full)
    return full


def _result(function: Function, states: Mapping[int, int]) -> int:
    """The state of a variable that was replaced; its parts were still there then, so they are known before it.

    A part without a state is one that no table is over.
    """
    return int(function.index[tuple(states.get(part, 0) for part in function.parts)])
