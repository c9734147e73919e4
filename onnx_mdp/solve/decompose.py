"""The decomposition: the exact solution of a program with one budget, by way of its Lagrangian relaxation.

1. The program becomes buckets of a tree decomposition (`factors`, `buckets`); this does not depend on the limit.
2. The multiplier with the best bound is found by evaluating the relaxation (`relax`, `multiplier`); plans within the
   limit that come up on the way are incumbents.
3. Every entry of every bucket that the bound rules out goes (`remains`); of many, those of plans near the bound are
   searched first. What is left is a short list, on which the multiplier is found to the last digits.
4. Labels where the list leaves a choice (`labels`), few at a time, which repairs the incumbent and usually proves it.
5. Where a choice that much depends on (a stream) keeps the bound away from the incumbent, because the relaxation mixes
   two of its levels, each of its levels becomes a program of its own, bounded and searched in the same way, the most
   promising first (`branch`); in large programs already before the third step, which would leave too much.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from onnx_mdp.solve.branch import Search
from onnx_mdp.solve.factors import make_model
from onnx_mdp.solve.incumbent import Incumbent, OutOfTimeError
from onnx_mdp.solve.problem import Problem, Status, largest
from onnx_mdp.solve.relax import complete
from onnx_mdp.solve.solvers.base import Limits
from onnx_mdp.solve.whole import Whole

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
        self.whole = Whole(make_model(problem, spending))
        self.plan = self.whole.plan
        self._scale = largest(spending)
        self._rounding = _ROUNDING * largest(problem.objective)

    def solve(self, limit: float, limits: Limits, deadline: float) -> Solved:
        """The plan of least cost that spends at most `limit`, or the best one found by `deadline`.

        Args:
            limit: of the budget; infinite where there is none.
            limits: the gap to stop at.
            deadline: of `time.perf_counter`.
        """
        room = limit + _TOLERANCE * max(abs(limit), self._scale) if math.isfinite(limit) else limit
        incumbent = Incumbent(self.plan, room, limits.gap, self._rounding, deadline)
        cheapest, fastest = self.whole.at(0.0), self.whole.at(math.inf)
        if not math.isfinite(cheapest.least) or fastest.spent > room:
            return Solved(Status.INFEASIBLE, math.inf, {}, {})
        incumbent.bound = cheapest.least
        for done in (cheapest, fastest):
            incumbent.consider(self.plan, done.states, done.cost, done.spent)
        if not incumbent.is_close():
            with suppress(OutOfTimeError):
                Search(self.whole, incumbent).run()
        return self._ended(incumbent)

    def _ended(self, incumbent: Incumbent) -> Solved:
        model = incumbent.plan.model
        full = complete(incumbent.plan, incumbent.states)
        levels = {name: int(model.kept_levels[i][full[i]]) for i, name in enumerate(model.choices)}
        gates = {name: bool(full[len(model.choices) + i]) for i, name in enumerate(model.gates)}
        status = Status.OPTIMAL if incumbent.is_close() else Status.FEASIBLE
        is_exact = incumbent.cost - incumbent.bound <= incumbent.rounding
        return Solved(status, incumbent.cost if is_exact else incumbent.bound, levels, gates)
