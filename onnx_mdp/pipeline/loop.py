"""The closed loop: solve, build, measure the whole model, correct, until the measured latency meets the budget.

The sum of region times predicts the whole model up to a factor that depends on the plan. So the budget of the table is
searched for: each measured plan gives the factor near it, and bounds the search from below (it met the budget) or from
above (it did not). It ends when a plan lies between 97 % and 100 % of the budget, or when no plan lies between the
fastest that misses and the slowest that meets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from onnx_mdp.config import LatencyBudget
from onnx_mdp.errors import BudgetError, SolverError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch
from onnx_mdp.rewrite.plan import Plan, plan_edits
from onnx_mdp.solve.problem import Answer, Problem
from onnx_mdp.solve.solve import Limits, solve

AIM = 0.983  # of the budget; measured parts between LOW and HIGH end the search, HIGH leaves room for noise
LOW, HIGH = 0.97, 0.996
ROUNDS = 10
_REFINEMENTS = 6
_SECONDS = 1.2


@dataclass(frozen=True, eq=False)
class Trial:
    """One plan, measured. `spent` is the part of the budget its measured latency uses.

    The model of a plan is not kept: ten of them would be, and it is quickly built again.
    """

    answer: Answer
    plan: Plan
    table_ms: float
    predicted_ms: float
    measured: Comparison
    spent: float


@dataclass(eq=False)
class Loop:
    """Searches the plan of least damage that meets a latency budget."""

    program: Program
    meter: Meter
    stopwatch: Stopwatch
    budget: LatencyBudget
    solver: str
    listener: Listener
    trials: list[Trial] = field(default_factory=list)
    solve_seconds: float = 0.0
    reason: str = ""
    _dense: Comparison = field(init=False)

    def run(self, dense: Comparison) -> Trial:
        """The plan of least damage found that meets the budget.

        Args:
            dense: the model as given against the same model rewritten with nothing cut.

        Raises:
            BudgetError: no plan meets it; the message names the lowest reachable latency.
        """
        self._dense = dense
        # Table budgets up to `low` give plans that meet the budget with room, plans from `high` on do not.
        low, high = 0.0, self.program.dense_latency()
        asked = AIM / self._factor()
        for _ in range(3 * ROUNDS):
            trial = self._try(asked)
            if LOW <= trial.spent <= HIGH:
                return trial
            if trial.spent <= HIGH:
                low = max(low, asked)
            else:
                high = min(high, trial.table_ms)
            if high - low < 0.003 * high:
                self.reason = "no plan lies between the last that meets the budget and the first that misses it"
                break
            if len(self.trials) >= ROUNDS:
                break
            asked = AIM * trial.table_ms / trial.spent
            if not low < asked < 0.999 * high:
                asked = (low + high) / 2 if low else 0.95 * high
        return self._best()

    def _try(self, table_ms: float) -> Trial:
        """The measured plan for a table budget; the fastest plan of all where none meets it."""
        answer = self._solve(lambda: self.program.problem(table_ms))
        fastest = not answer.levels
        if fastest:
            answer = self._solve(self.program.fastest)
        trial = self._known(answer) or self._measured(answer)
        if fastest and all(other.spent > 1 for other in self.trials):
            raise self._unreachable()
        return trial

    def _known(self, answer: Answer) -> Trial | None:
        same = [t for t in self.trials if t.answer.levels == answer.levels and t.answer.kept == answer.kept]
        return same[0] if same else None

    def _solve(self, problem: Callable[[], Problem]) -> Answer:
        """Solve until every table entry the plan rests on is measured."""
        for _ in range(_REFINEMENTS):
            answer = solve(problem(), self.solver, Limits(seconds=60, gap=1e-4))
            self.solve_seconds += answer.seconds
            if not answer.levels and answer.status != "infeasible":
                raise SolverError(f"{answer.solver} found no plan within 60 s; try fewer groups (--lock) or --multiple")
            unknown = [(t, i) for t, i in self.program.entries(answer) if i not in t.known] if answer.levels else []
            if not unknown:
                break
            self.meter.fill({table.text(index): table.build(index) for table, index in unknown})
            for table, index in unknown:
                table.read(self.meter, [index])
            self.program.refresh()
        return answer

    def _measured(self, answer: Answer) -> Trial:
        plan = self.program.plan(answer)
        edits = plan_edits(self.program.analysis, plan)
        comparison = self.stopwatch.compare(partial(rewrite, self.program.analysis.network.model, edits), _SECONDS)
        table_ms = self.program.latency(answer)
        predicted = table_ms * self._factor() * self.budget.in_ms(comparison.dense_ms)
        spent = self.budget.spent(comparison.pruned_ms, comparison.dense_ms)
        trial = Trial(answer, plan, table_ms, predicted, comparison, spent)
        self.trials.append(trial)
        self.listener.note(
            f"round {len(self.trials)}: predicted {predicted:.3g} ms, measured {comparison.pruned_ms:.3g} ms, "
            f"{100 * spent:.1f}% of the budget"
        )
        return trial

    def _factor(self) -> float:
        """Budget share per table millisecond, at the latest measured plan (the dense model at first)."""
        if self.trials:
            return self.trials[-1].spent / self.trials[-1].table_ms
        whole = self.budget.spent(self._dense.pruned_ms, self._dense.dense_ms)
        return whole / self.program.dense_latency()

    def _best(self) -> Trial:
        met = [trial for trial in self.trials if trial.spent <= 1]
        if not met:
            raise self._unreachable()
        best = max(met, key=lambda trial: trial.spent)
        if best.spent < LOW:
            self.reason = self.reason or f"{ROUNDS} rounds did not come closer"
        else:
            self.reason = ""
        return best

    def _unreachable(self) -> BudgetError:
        dense = self._dense.dense_ms
        lowest = min(self.trials, key=lambda trial: trial.spent).measured
        return BudgetError(
            f"--latency {self.budget.text} cannot be reached: the lowest measured is {lowest.pruned_ms:.3g} ms, "
            f"{100 * lowest.ratio:.0f}% of the dense model's {dense:.3g} ms; ask for more, or allow more with a lower "
            "--min-keep, a smaller --multiple or fewer --lock"
        )
