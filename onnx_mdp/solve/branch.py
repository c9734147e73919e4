"""Best-first search over the levels of the choices that much depends on.

A node is what is left of the buckets with some variables at one state. Its own best multiplier bounds it; labels search
it, few at a time. What that does not settle is split by the variable most tables depend on among those in which the
plan just within the limit and the one just beyond it differ: it is the mixture of these two that the bound falls for.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter

import numpy as np

from onnx_mdp.solve.incumbent import Incumbent, OutOfTimeError
from onnx_mdp.solve.labels import Labels, threshold
from onnx_mdp.solve.multiplier import around, best, bracket
from onnx_mdp.solve.remains import Remains, Sweep

_SIZES = (256, 2048, 16384)  # labels of a bucket; only the first where a hub can be split instead
_FIRST_SHARE, _GROWTH = 1 / 64, 8
_NEIGHBORS = 2  # multipliers on either side of the best that labels are bounded with
_HUB = 3  # buckets that a variable must be in for its levels to be told apart at once


class Search:
    """Searches what is left of a plan until the incumbent is proven.

    Args:
        left: the entries to search.
        incumbent: the best plan so far; improved in place.
        known: multipliers worth trying, in growing order from 0 to infinity; extended in place.
    """

    def __init__(self, left: Remains, incumbent: Incumbent, known: list[float]) -> None:
        self.incumbent = incumbent
        self.known = known
        self.uses = Counter(v for bucket in left.plan.buckets for v in bucket.scope)
        self.buckets = {bucket.variable: i for i, bucket in enumerate(left.plan.buckets)}
        self.open: list[tuple[float, int, Remains]] = [(incumbent.bound, 0, left)]
        self.count = 1

    def run(self) -> None:
        """Improve the incumbent and its bound until they meet.

        Raises:
            OutOfTimeError: the deadline passed; the incumbent and its bound stand.
        """
        while self.open:
            bound, _, left = heapq.heappop(self.open)
            self.incumbent.bound = max(self.incumbent.bound, min(bound, self.incumbent.cost))
            if self.incumbent.is_close():
                return
            for child_bound, child in self._settle(bound, left):
                if not self.incumbent.leaves(child_bound):
                    heapq.heappush(self.open, (child_bound, self.count, child))
                    self.count += 1
        self.incumbent.bound = self.incumbent.cost

    def _settle(self, bound: float, left: Remains) -> list[tuple[float, Remains]]:
        """Search a node; the parts it has to be split into, with their bounds, if that does not settle it."""
        limit = self.incumbent.limit
        found = self._relaxed(left)
        if not found:
            return []
        multiplier = best(found, limit)
        bound = max(bound, found[multiplier].bound(limit))
        if self.incumbent.leaves(bound):
            return []
        sweeps = around(found, multiplier, _NEIGHBORS)
        for sweep in sweeps:
            if not sweep.outside:
                left.down(sweep)
        hub = self._hub(found)
        bound = self._searched(left, sweeps, bound, _SIZES[:1] if self.uses[hub] >= _HUB else _SIZES)
        if self.incumbent.leaves(bound):
            return []
        left = self._fewer(left, sweeps, self.incumbent.cost)
        return self._split(left, sweeps, bound, self.buckets[hub])

    def _searched(self, left: Remains, sweeps: list[Sweep], bound: float, sizes: tuple[int, ...]) -> float:
        """The bound of a node after a search with labels, which may have improved the incumbent.

        The first target lies little above the bound, where few labels reach; it is raised when it is proven that no
        plan lies below it. When too many labels do, they become more.
        """
        share, size = _FIRST_SHARE, 0
        while size < len(sizes):
            before = self.incumbent.cost
            target = bound + share * (before - bound) if share < 1 else before
            labels = Labels(self._fewer(left, sweeps, target), sweeps, self.incumbent.limit)
            found = labels.run(target, sizes[size], self.incumbent.deadline)
            if found.states is not None:
                self.incumbent.consider(found.states, found.cost, found.spent)
            bound = max(bound, min(found.cut, target, self.incumbent.cost))
            if self.incumbent.leaves(bound):
                break
            if found.cut >= target:
                share = min(1.0, _GROWTH * share)
            elif self.incumbent.cost - bound < 0.5 * (target - bound):
                share = 1.0
            else:
                size += 1
        return bound

    def _relaxed(self, left: Remains) -> dict[float, Sweep]:
        """A node's relaxations by multiplier; none where no plan within the limit is left."""

        def at(multiplier: float) -> Sweep:
            if time.perf_counter() > self.incumbent.deadline:
                raise OutOfTimeError
            sweep = left.sweep(1.0, multiplier) if math.isfinite(multiplier) else left.sweep(0.0, 1.0)
            self.incumbent.consider(sweep.states, sweep.cost, sweep.spent)
            return sweep

        if at(math.inf).least > self.incumbent.limit:
            return {}
        cheapest = at(0.0)
        if cheapest.spent <= self.incumbent.limit:
            return {}  # and it has been considered
        return bracket(at, self.known, self.incumbent.limit)

    def _fewer(self, left: Remains, sweeps: list[Sweep], upper: float) -> Remains:
        return left.fewer(sweeps, [threshold(sweep, upper, self.incumbent.limit) for sweep in sweeps])

    def _hub(self, found: dict[float, Sweep]) -> int:
        """The variable in most buckets whose state differs between the plans around the limit."""
        limit = self.incumbent.limit
        over = next(found[m] for m in reversed(found) if found[m].spent > limit)
        within = next(found[m] for m in found if found[m].spent <= limit)
        differ = [v for v, state in over.states.items() if within.states.get(v, state) != state]
        return max(differ, key=lambda v: (self.uses[v], v))

    def _split(self, left: Remains, sweeps: list[Sweep], bound: float, number: int) -> list[tuple[float, Remains]]:
        """The parts of a node with the variable of a bucket at each of its states, and what the sweeps say of them."""
        states = left.entries[number].variable
        if not len(states):
            return []
        least = np.full(int(states.max()) + 1, bound)
        for sweep in sweeps:
            if sweep.on_cost:
                through = np.full(len(least), np.inf)
                np.minimum.at(through, states, left.through(sweep, number))
                least = np.maximum(least, through - sweep.on_spent * self.incumbent.limit)
        return [(float(least[state]), left.only(number, int(state))) for state in np.unique(states)]
