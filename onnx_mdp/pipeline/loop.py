"""The closed loop: solve, build, measure the whole model, correct, until the measured latency meets the budget.

The sum of region times predicts the whole model up to a factor that depends on the plan; whole models measured so far
tell that factor and how sure it is. So the budget of the table is searched for: plans are solved until one is predicted
to use what is aimed at, that one is measured, and what is learned from it corrects the next prediction. Each measured
plan also bounds the search from below (it met the budget) or from above (it did not). It ends when a plan lies between
97 % and 100 % of the budget, or when no plan lies between the fastest that misses and the slowest that meets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import onnx

from onnx_mdp.errors import BudgetError, SolverError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.latency.correct import Correction, Prediction, Sums
from onnx_mdp.latency.fill import Entry, Fill
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch
from onnx_mdp.quantities import LatencyBudget
from onnx_mdp.rewrite.plan import Plan, plan_edits
from onnx_mdp.solve.problem import Answer, Problem
from onnx_mdp.solve.solve import Limits, solve

AIM = 0.985  # of the budget; measured parts between LOW and HIGH end the search, HIGH leaves room for noise
LOW, HIGH = 0.974, 0.995
ROUNDS = 10
_PATIENCE, _LENIENT = 3, (0.972, 0.998)
_REFINEMENTS = 6
_GUESSES = 4
_NEARBY = (0.97, 1.03)


@dataclass(frozen=True, eq=False)
class Trial:
    """One plan, measured.

    The model of a plan is not kept: ten of them would be, and it is quickly built again.

    Attributes:
        table_ms: what its table entries add up to.
        predicted: share of the given model's latency that was expected before it was measured.
        spent: part of the budget that its measured latency uses.
        confirmed: whether two processes have measured it.
    """

    answer: Answer
    plan: Plan
    table_ms: float
    predicted: Prediction
    measured: Comparison
    spent: float
    confirmed: bool = False


@dataclass(eq=False)
class Loop:
    """Searches the plan of least damage that meets a latency budget.

    Attributes:
        program: the program, whose tables `fill` refines.
        correction: from table sums to shares of the dense model's latency.
        stopwatch: compares whole models with the dense one.
    """

    program: Program
    fill: Fill
    correction: Correction
    stopwatch: Stopwatch
    budget: LatencyBudget
    solver: str
    listener: Listener
    trials: list[Trial] = field(default_factory=list)
    solve_seconds: float = 0.0
    reason: str = ""
    _dense: Comparison = field(init=False)
    _asked: float = field(init=False)  # table milliseconds that the latest plan was solved for

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
        asked = high * AIM / self._spent(Sums(high, high))
        if self.program.budgets:
            trial = self._unhurried()
            if trial.spent <= 1:
                return trial
            high, asked = trial.table_ms, AIM * trial.table_ms / trial.spent
        for _ in range(3 * ROUNDS):
            trial = self._try(asked, low, high)
            if accepted := self._accepted():
                return accepted
            trial = self._known(trial.answer) or trial  # as confirmed
            if trial.spent <= HIGH:
                low = max(low, self._asked)
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

    def _unhurried(self) -> Trial:
        """The plan within all limits, whatever its latency: where it meets the budget, nothing else has to go."""
        answer = self._solve(self.program.unhurried)
        if not answer.levels:
            raise BudgetError(f"{self.program.constraints.text} cannot be met together; allow more of one of them")
        trial = self._measured(answer)
        if trial.spent <= 1:
            trial = self._confirmed(trial)
        if trial.spent <= 1:
            self.reason = f"{self.program.constraints.text} already asks for more than --latency {self.budget.text}"
        return trial

    def _accepted(self) -> Trial | None:
        """A confirmed trial that uses what is wanted of the budget; after some rounds a little more or less will do."""
        low, high = (LOW, HIGH) if len(self.trials) < _PATIENCE else _LENIENT
        fitting = [trial for trial in self.trials if low <= trial.spent <= high]
        for trial in sorted(fitting, key=lambda trial: -trial.spent):
            confirmed = self._confirmed(trial)
            if low <= confirmed.spent <= high:
                return confirmed
        return None

    def _try(self, table_ms: float, low: float, high: float) -> Trial:
        """The measured plan for a table budget near this one; the fastest plan of all where none meets it."""
        answer = self._aimed(table_ms, low, high)
        fastest = not answer.levels
        if fastest:
            answer = self._solve(self.program.fastest)
        trial = self._known(answer) or self._measured(answer)
        if fastest and all(other.spent > 1 for other in self.trials):
            raise self._unreachable()
        return trial

    def _aimed(self, table_ms: float, low: float, high: float) -> Answer:
        """The plan for a table budget, moved until the plan is predicted to use what is aimed at."""
        self._explore(table_ms)
        self._asked = table_ms
        answer = self._solve(partial(self.program.problem, table_ms))
        for _ in range(_GUESSES):
            if not answer.levels:
                break
            spent = self._spent(self.program.sums_of(answer))
            table_ms *= AIM / spent
            if abs(spent / AIM - 1) < 0.006 or not low < table_ms < high:
                break
            other = self._solve(partial(self.program.problem, table_ms))
            if self._known(other):  # measured already: the budget asked for is what leads on
                break
            answer, self._asked = other, table_ms
        return answer

    def _explore(self, table_ms: float) -> None:
        """Measure what the plans of slightly other budgets rest on: the plan sought may look like one of them."""
        plans = [self._answer(self.program.problem(near * table_ms)) for near in _NEARBY]
        if self._refine([entry for answer in plans if answer.levels for entry in self.program.entries(answer)]):
            self.program.refresh()

    def _refine(self, entries: Sequence[Entry]) -> bool:
        """Measure those entries that are not known; whether any of them is known now."""
        unknown = [(table, index) for table, index in entries if index not in table.known]
        return bool(unknown) and self.fill.refine(unknown)

    def _spent(self, sums: Sums) -> float:
        """The part of the budget that a plan is predicted to use."""
        return self.budget.spent(self._predicted(sums).share * self._dense.dense_ms, self._dense.dense_ms)

    def _predicted(self, sums: Sums) -> Prediction:
        """The predicted share of the given model's latency; the correction speaks of the rewritten one's."""
        found = self.correction.predict(sums)
        return Prediction(found.share * self._dense.ratio, found.deviation * self._dense.ratio)

    def _known(self, answer: Answer) -> Trial | None:
        same = [t for t in self.trials if t.answer.levels == answer.levels and t.answer.kept == answer.kept]
        return same[0] if same else None

    def _solve(self, problem: Callable[[], Problem]) -> Answer:
        """Solve until every table entry the plan rests on is measured."""
        for _ in range(_REFINEMENTS):
            answer = self._answer(problem())
            if not answer.levels or not self._refine(self.program.entries(answer)):
                break
            self.program.refresh()
        return answer

    def _answer(self, problem: Problem) -> Answer:
        answer = solve(problem, self.solver, Limits(seconds=60, gap=1e-4))
        self.solve_seconds += answer.seconds
        if not answer.levels and answer.status != "infeasible":
            raise SolverError(f"{answer.solver} found no plan within 60 s; try fewer groups (--lock) or --multiple")
        return answer

    def _confirmed(self, trial: Trial) -> Trial:
        """The trial as measured in two processes, in place of the one that was measured in one."""
        if trial.confirmed:
            return trial
        measured = self.stopwatch.confirm(self._builder(trial.plan), trial.measured)
        spent = self.budget.spent(measured.pruned_ms, measured.dense_ms)
        found = replace(trial, measured=measured, spent=spent, confirmed=True)
        self.trials[self.trials.index(trial)] = found
        return found

    def _builder(self, plan: Plan) -> Callable[[], onnx.ModelProto]:
        analysis = self.program.analysis
        return partial(rewrite, analysis.network.model, plan_edits(analysis, plan))

    def _measured(self, answer: Answer) -> Trial:
        plan = self.program.plan(answer)
        comparison = self.stopwatch.compare(self._builder(plan))
        sums = self.program.sums_of(answer)
        predicted = self._predicted(sums)
        ms = comparison.dense_ms
        spent = self.budget.spent(comparison.pruned_ms, ms)
        trial = Trial(answer, plan, sums.kept, predicted, comparison, spent)
        self.trials.append(trial)
        self.correction.add(sums, comparison.ratio / self._dense.ratio)
        self.listener.note(
            f"round {len(self.trials)}: predicted {predicted.share * ms:.3g} ± {predicted.deviation * ms:.2g} ms, "
            f"measured {comparison.pruned_ms:.3g} ms, {100 * spent:.1f}% of the budget"
        )
        return trial

    def _best(self) -> Trial:
        met = [trial for trial in self.trials if trial.spent <= 1]
        closest = sorted(met, key=lambda trial: -trial.spent)
        best = next((t for t in map(self._confirmed, closest) if t.spent <= 1), None)
        if best is None:
            raise self._unreachable()
        if best.spent < _LENIENT[0]:
            self.reason = self.reason or f"{len(self.trials)} rounds did not come closer"
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
