"""The decomposition: the exact solution of a program with one budget, by way of its Lagrangian relaxation.

1. The program becomes buckets of a tree decomposition (`factors`, `buckets`); this does not depend on the limit.
2. The multiplier with the best bound is found by evaluating the relaxation (`relax`, `multiplier`); plans within the
   limit that come up on the way are incumbents.
3. Every entry of every bucket that the bound rules out goes (`remains`).
4. Labels on what is left (`labels`), few at a time, which repairs the incumbent and usually proves it.
5. Where a choice that much depends on (a stream) keeps the bound away from the incumbent, because the relaxation mixes
   two of its levels, each of its levels becomes a program of its own, bounded and searched in the same way, the most
   promising first (`branch`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from onnx_mdp.solve.branch import Search
from onnx_mdp.solve.buckets import make_plan
from onnx_mdp.solve.factors import make_model
from onnx_mdp.solve.incumbent import Incumbent, OutOfTimeError
from onnx_mdp.solve.labels import threshold
from onnx_mdp.solve.multiplier import best, bracket, remember
from onnx_mdp.solve.problem import Problem, Status, largest
from onnx_mdp.solve.relax import Pass, complete, go_down, go_up
from onnx_mdp.solve.remains import Remains, remains
from onnx_mdp.solve.solvers.base import Limits

_TOLERANCE = 1e-9  # of a budget's own scale: what sums of rounded numbers may exceed a limit by
_ROUNDING = 1e-13  # of the objective's own scale


@dataclass(frozen=True, eq=False)
class Solved:
    """How a solve ended; levels and kept blocks are empty without a plan."""

    status: Status
    bound: float
    levels: dict[str, int]
    kept: dict[str, bool]


class Decomposition:
    """A program with at most one budget, prepared so that it can be solved for many limits.

    Args:
        problem: the program; the limit of its budget is not read.

    Raises:
        TooDenseError: its tables would be too large.
    """

    def __init__(self, problem: Problem) -> None:
        spending = problem.budgets[0].terms if problem.budgets else ()
        self.plan = make_plan(make_model(problem, spending))
        self._scale = largest(spending)
        self._rounding = _ROUNDING * largest(problem.objective)
        self._passes: dict[float, Pass] = {}
        self._known: list[float] = [0.0, math.inf]

    @property
    def evaluated(self) -> int:
        """How many relaxations of the whole program were solved so far."""
        return len(self._passes)

    def solve(self, limit: float, limits: Limits, deadline: float) -> Solved:
        """The plan of least cost that spends at most `limit`, or the best one found by `deadline`.

        Args:
            limit: of the budget; infinite where there is none.
            limits: the gap to stop at.
            deadline: of `time.perf_counter`.
        """
        room = limit + _TOLERANCE * max(abs(limit), self._scale) if math.isfinite(limit) else limit
        best_plan = Incumbent(room, limits.gap, self._rounding, deadline)
        if not math.isfinite(self._seen(0.0, best_plan).least):
            return Solved(Status.INFEASIBLE, math.inf, {}, {})
        if math.isfinite(best_plan.cost):
            return self._ended(best_plan)
        if self._seen(math.inf, best_plan).spent > room:
            return Solved(Status.INFEASIBLE, math.inf, {}, {})
        try:
            left = self._left(best_plan)
            if not best_plan.is_close():
                Search(left, best_plan, self._known).run()
        except OutOfTimeError:
            pass
        return self._ended(best_plan)

    def _seen(self, multiplier: float, best_plan: Incumbent) -> Pass:
        """The relaxation at a multiplier, made once, taken into account as a plan and as a bound."""
        if multiplier not in self._passes:
            if time.perf_counter() > best_plan.deadline and self._passes.keys() >= {0.0, math.inf}:
                raise OutOfTimeError
            weights = (1.0, multiplier) if math.isfinite(multiplier) else (0.0, 1.0)
            self._passes[multiplier] = go_up(self.plan, *weights)
        done = self._passes[multiplier]
        best_plan.consider(done.states, done.cost, done.spent)
        if math.isfinite(multiplier):
            best_plan.bound = max(best_plan.bound, done.least if not multiplier else done.bound(best_plan.limit))
        return done

    def _left(self, best_plan: Incumbent) -> Remains:
        """The entries that the best bound leaves."""
        limit = best_plan.limit
        found = bracket(lambda m: self._seen(m, best_plan), self._known, limit)
        remember(self._known, found)
        if best_plan.is_close():
            return Remains(self.plan, ())
        done = found[best(found, limit)]
        return remains(self.plan, go_down(self.plan, done, threshold(done, best_plan.cost, limit)))

    def _ended(self, best_plan: Incumbent) -> Solved:
        model = self.plan.model
        full = complete(self.plan, best_plan.states)
        levels = {name: int(model.kept_levels[i][full[i]]) for i, name in enumerate(model.choices)}
        gates = {name: bool(full[len(model.choices) + i]) for i, name in enumerate(model.gates)}
        status = Status.OPTIMAL if best_plan.is_close() else Status.FEASIBLE
        is_exact = best_plan.cost - best_plan.bound <= best_plan.rounding
        return Solved(status, best_plan.cost if is_exact else best_plan.bound, levels, gates)
