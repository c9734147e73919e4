"""Best-first search over the levels of the choices that much depends on.

A node is a program, the whole or with some variables at one state: in full, or what bounds have left of its buckets.
Its own best multiplier bounds it; labels search what is left of it, few at a time. What that does not settle is split
by the variable most tables depend on among those in which the plan just within the limit and the one just beyond it
differ: it is the mixture of these two that the bound falls for. A large program is split that way in full, since lists
of what a loose bound leaves would be larger than its tables.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from onnx_mdp.solve.buckets import Plan
from onnx_mdp.solve.factors import Floats
from onnx_mdp.solve.incumbent import Incumbent, OutOfTimeError
from onnx_mdp.solve.labels import Labels, threshold
from onnx_mdp.solve.multiplier import Relaxation, around, best, bracket
from onnx_mdp.solve.relax import Pass, go_down, through
from onnx_mdp.solve.remains import Mask, Remains, Sweep, remains
from onnx_mdp.solve.whole import Whole

_SIZES = (256, 2048, 16384)  # labels of a bucket; only the first where a hub can be split instead
_LIST_SHARES = (1 / 512, 1 / 64, 1 / 8, 1.0)  # of the way from the bound to the incumbent, that a list reaches
_SHARES = (1 / 64, 1 / 8, 1.0)  # and that a search goes at once
_NEIGHBORS = 2  # multipliers on either side of the best that labels are bounded with
_ROUGH, _FINE = 3e-2, 1e-5  # of the distance to a plan that bounds of whole tables and of lists may fall short
_HUB = 3  # buckets that a variable must be in for its levels to be told apart at once
_LARGE = 1 << 20  # entries that are too many to list: a program that keeps more is split in full
_MANY = 1 << 14  # entries that are more than a list should have at first
_HUB_SHARE = 1 / 4  # of a program's entries that the variable's buckets must hold

R = TypeVar("R", bound=Relaxation)


Step = Callable[[float], None]  # what to do at a node, given its bound


class Search:
    """Searches a program until the incumbent is proven.

    Args:
        whole: the program; the multipliers that it was relaxed at are tried first at every node.
        incumbent: the best plan so far, and its bound; improved in place.
    """

    def __init__(self, whole: Whole, incumbent: Incumbent) -> None:
        self.whole = whole
        self.incumbent = incumbent
        self.open: list[tuple[float, int, Step]] = []
        self.count = 0
        self.left_alone = math.inf  # the least bound among nodes that are close enough to the incumbent
        self._add(incumbent.bound, partial(self._bound_whole, whole))

    def run(self) -> None:
        """Improve the incumbent and its bound until they meet.

        Raises:
            OutOfTimeError: the deadline passed; the incumbent and its bound stand.
        """
        while self.open and not self.incumbent.is_close():
            bound, _, step = heapq.heappop(self.open)
            self._raise(bound)
            if not self.incumbent.is_close():
                step(bound)
        self._raise(math.inf)

    def _add(self, bound: float, step: Step) -> None:
        if self.incumbent.leaves(bound):
            self.left_alone = min(self.left_alone, bound)
            return
        heapq.heappush(self.open, (bound, self.count, step))
        self.count += 1

    def _raise(self, bound: float) -> None:
        """Take note of the bound of the node at hand: the least bound among all nodes is proven."""
        least = min([bound, self.left_alone, self.incumbent.cost, *(other for other, _, _ in self.open[:1])])
        self.incumbent.bound = max(self.incumbent.bound, least)

    def _bound_whole(self, whole: Whole, bound: float) -> None:
        """Bound a program in full; others may have a lower bound then, and a better plan, before it is searched."""
        found = self._relaxed(whole.plan, whole.at, _ROUGH)
        if found:
            bound = max(bound, found[best(found, self.incumbent.limit)].bound(self.incumbent.limit))
            self._add(bound, partial(self._list_or_split, whole, found, 0))

    def _list_or_split(self, whole: Whole, found: dict[float, Pass], first: int, bound: float) -> None:
        """Keep what the bound does not rule out of a program, or split it in full where that is too much.

        Where it is much, the entries of plans come first whose cost is at most a share of the way from the bound to
        the incumbent, of the shares from the `first`: far fewer, and the optimum is among them more often than not.
        """
        plan, limit = whole.plan, self.incumbent.limit
        done, hub = found[best(found, limit)], self._hub(plan, found)
        uppers = [self._part_way(bound, share) for share in _LIST_SHARES]
        exceeded = go_down(plan, done, [threshold(done, upper, limit) for upper in uppers])
        counts = [sum(np.count_nonzero(table <= i) for table in exceeded) for i in range(len(uppers))]
        which = max(first, *(i for i, count in enumerate(counts) if count <= _MANY), 0)
        if counts[which] <= _LARGE or not _is_hub(plan, hub):
            if which + 1 < len(uppers):
                self._add(uppers[which], partial(self._list_or_split, whole, found, which + 1))
            self._settle(remains(plan, [table <= which for table in exceeded]), uppers[which], bound)
            return
        bounds = self._bounds(around(found, done.on_spent, _NEIGHBORS), bound, lambda p: through(plan, p, hub))
        for state, least in enumerate(bounds):
            self._add(float(least), partial(self._bound_whole, whole.at_state(hub, state)))

    def _part_way(self, bound: float, share: float) -> float:
        return bound + share * (self.incumbent.cost - bound) if share < 1 else self.incumbent.cost

    def _settle(self, left: Remains, upper: float, bound: float) -> None:
        """Search what is left of a program for plans that cost less than `upper`, and split it if there may be some."""
        limit = self.incumbent.limit
        found = self._relaxed(left.plan, left.at, _FINE)
        if not found:
            return
        multiplier = best(found, limit)
        bound = max(bound, found[multiplier].bound(limit))
        sweeps = around(found, multiplier, _NEIGHBORS)
        hub = self._hub(left.plan, found)
        if not self._is_settled(upper, bound):
            for sweep in sweeps:
                if sweep.outside is None:
                    left.down(sweep)
            sizes = _SIZES[:1] if left.plan.uses[hub] >= _HUB else _SIZES
            bound = self._searched(left, sweeps, upper, bound, sizes)
        if not self._is_settled(upper, bound):
            self._split(left, sweeps, upper, bound, left.layout.places[hub])
        elif bound < upper:  # else the node of dearer plans stands for the rest
            self.left_alone = min(self.left_alone, bound)

    def _is_settled(self, upper: float, bound: float) -> bool:
        return bound >= upper or self.incumbent.leaves(bound)

    def _searched(
        self, left: Remains, sweeps: list[Sweep], upper: float, bound: float, sizes: tuple[int, ...]
    ) -> float:
        """The bound of a node after a search with labels, which may have improved the incumbent.

        The first target lies little above the bound, where few labels reach; it is raised when it is proven that no
        plan lies below it. When too many labels do, they become more.
        """
        share = size = 0
        while size < len(sizes):
            target = min(upper, self._part_way(bound, _SHARES[share]))
            labels = Labels(left.pick(self._within(left, sweeps, target)), sweeps, self.incumbent.limit)
            found = labels.run(target, sizes[size], self.incumbent.deadline)
            if found.states is not None:
                self.incumbent.consider(left.plan, found.states, found.cost, found.spent)
            bound = max(bound, min(found.cut, target, self.incumbent.cost))
            if self._is_settled(upper, bound):
                break
            if found.cut >= target:
                share = min(share + 1, len(_SHARES) - 1)
            elif self.incumbent.cost - bound < 0.5 * (target - bound):
                share = len(_SHARES) - 1
            else:
                size += 1
        return bound

    def _relaxed(self, plan: Plan, at: Callable[[float], R], notable: float) -> dict[float, R]:
        """A node's relaxations by multiplier; none where no plan within the limit is left."""
        limit = self.incumbent.limit

        def seen(multiplier: float) -> R:
            if time.perf_counter() > self.incumbent.deadline:
                raise OutOfTimeError
            done = at(multiplier)
            self.incumbent.consider(plan, done.states, done.cost, done.spent)
            if done.on_cost:
                self._raise(done.bound(limit))
            return done

        if seen(math.inf).least > limit:
            return {}
        if seen(0.0).spent <= limit:
            return {}  # and it has been considered
        return bracket(seen, sorted(self.whole.passes.keys() | {0.0, math.inf}), limit, notable)

    def _within(self, left: Remains, sweeps: list[Sweep], upper: float) -> Mask:
        return left.within(sweeps, [threshold(sweep, upper, self.incumbent.limit) for sweep in sweeps])

    def _hub(self, plan: Plan, found: Mapping[float, R]) -> int:
        """The variable in most buckets whose state differs between the plans around the limit."""
        limit = self.incumbent.limit
        over = next(done for done in reversed(list(found.values())) if done.spent > limit)
        within = next(done for done in found.values() if done.spent <= limit)
        differ = (v for v, state in over.states.items() if within.states.get(v, state) != state)
        return max(differ, key=lambda v: (plan.uses[v], v))

    def _split(self, left: Remains, sweeps: list[Sweep], upper: float, bound: float, place: int) -> None:
        """Each state of a bucket's variable becomes a node, with the bound that the sweeps prove."""
        which = self._within(left, sweeps, min(upper, self.incumbent.cost))
        here = left.at_place(place)
        kept = which[here]
        states = left.variable[here][kept]

        def least(sweep: Sweep) -> Floats:
            found = np.full(int(states.max(initial=-1)) + 1, np.inf)
            np.minimum.at(found, states, sweep.through[here][kept])
            return found

        bounds, fewer = self._bounds(sweeps, bound, least), left.pick(which)
        for state in np.unique(states):
            self._add(float(bounds[state]), partial(self._settle, fewer.only(place, int(state)), upper))

    def _bounds(self, relaxed: Sequence[R], bound: float, least: Callable[[R], Floats]) -> Floats:
        """Per state of a variable, what the relaxations prove, by the least weighted sum that each finds there."""
        limit = self.incumbent.limit
        proven = [
            least(done) - done.on_spent * limit if done.on_cost else np.where(least(done) > limit, np.inf, -np.inf)
            for done in relaxed
        ]
        return np.asarray(np.max([np.full_like(proven[0], bound), *proven], axis=0))


def _is_hub(plan: Plan, variable: int) -> bool:
    """Whether to split a program by a variable: a choice of its own that much depends on."""
    is_free = variable < len(plan.model.choices) and variable not in plan.model.functions
    return is_free and plan.uses[variable] >= _HUB and plan.entries_over(variable) >= _HUB_SHARE * plan.entries
