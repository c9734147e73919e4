"""The closed loop: solve, build, measure the whole model, correct, until the measured latency meets the budget.

The sum of region times predicts the whole model up to a factor that depends on the plan; whole models measured so far
tell that factor and how sure it is. So the budget of the table is moved until the plan is predicted to use what is
aimed at, that plan is measured, and what is learned from it corrects the next prediction. What the first one did not
hit, later rounds look for with several plans each, those of table budgets around it: each differs from its prediction
by a part of its own, which nothing but measuring it tells. The search ends when a measured plan lies between 97 % and
100 % of the budget, or when no plan near it is left that was not measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import numpy as np
import onnx

from onnx_mdp.errors import BudgetError, SolverError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.importance.base import blurred
from onnx_mdp.latency.correct import Correction, Prediction, Sums
from onnx_mdp.latency.fill import Entry, Fill
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.stopwatch import BRIEF, Comparison, Stopwatch, foreseen
from onnx_mdp.quantities import LatencyBudget
from onnx_mdp.rewrite.plan import Plan, plan_edits
from onnx_mdp.solve.problem import PROVEN, Answer, Problem
from onnx_mdp.solve.solve import Limits, solve

AIM = 0.986  # of the budget; measured parts between LOW and HIGH end the search, both leave room for noise
LOW, HIGH = 0.977, 0.994
ROUNDS = 4  # but for those that it takes to meet the budget at all
LEAST_USED = 0.975  # of the budget, after some rounds
_PATIENCE, _LENIENT = 2, (LEAST_USED, 0.995)
_REFINEMENTS = 6
_GUESSES = 4
_LOWER = 0.98  # times what was aimed at, where no plan that was measured meets the budget
_NEARBY = (0.97, 1.03)
_BESIDE = (0.995, 1.005, 0.99, 1.01, 0.98, 1.02)  # table budgets whose plans are measured beside the one aimed at
_TOGETHER = 3  # plans a round
_RISK = 0.03  # of the budget is given up rather than to end so near that another process may measure more than it
_DOUBTS = (0.15, 0.3, 0.5)  # standard deviations of the logarithm of damage, where other plans are looked for
_FULLER = 1.3  # times the damage that may be done by a plan that uses more of the budget, if it then proves better
_FAR = 0.02  # predicted this far from what is aimed at, a plan is not worth measuring


@dataclass(frozen=True, eq=False)
class Trial:
    """One plan, measured.

    The model of a plan is not kept: ten of them would be, and it is quickly built again.

    Attributes:
        table_ms: what its table entries add up to.
        predicted: share of the given model's latency that was expected before it was measured.
        spent: part of the budget that its measured latency uses.
        confirmed: whether several processes have measured it.
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
    rounds: int = 0
    solve_seconds: float = 0.0
    reason: str = ""
    _dense: Comparison = field(init=False)
    _aim: float = field(init=False, default=AIM)  # lower where what was aimed at came out above the budget

    def over(self, program: Program) -> Self:
        """The same search from its start over another program; what it measured of latency is kept."""
        return replace(self, program=program, trials=[], rounds=0, reason="")

    def run(self, dense: Comparison) -> Trial:
        """The plan of least damage found that meets the budget.

        Args:
            dense: the model as given against the same model rewritten with nothing cut.

        Raises:
            BudgetError: no plan meets it; the message names the lowest reachable latency.
        """
        asked = self._begin(dense)
        if self.program.budgets:
            trial = self._unhurried()
            if trial.spent <= 1:
                return trial
            asked = AIM * trial.table_ms / trial.spent
        while True:
            answers, before = self._candidates(asked), self._closest()
            self.rounds += bool(answers)
            for answer in answers:
                if LOW <= self._measured(answer).spent <= HIGH:
                    break
            if accepted := self._accepted():
                return accepted
            closest = self._closest() or self.trials[-1]
            idle = not answers or (self.rounds > _PATIENCE and closest is before)
            if any(trial.spent <= 1 for trial in self.trials):
                if (idle or self.rounds >= ROUNDS) and (best := self._best()):
                    if best.spent < _LENIENT[0]:
                        tries = f"{self.rounds} rounds did not come closer"
                        self.reason = tries if answers else "no other plan lies near the budget"
                    return best
            elif idle or self.rounds >= _PATIENCE:
                self._aim *= _LOWER
            asked = self._aim * closest.table_ms / closest.spent

    def promise(self, dense: Comparison) -> Trial | None:
        """What is likely to come of it, by what was learned so far: the first plan it would measure; None if none."""
        _, answer = self._aimed(self._begin(dense))
        return self.foreseen(answer) if answer.levels else None

    def _begin(self, dense: Comparison) -> float:
        """The table budget to begin with."""
        self._dense = dense
        full = self.program.dense_latency()
        return full * AIM / self._spent(Sums(full, full))

    def foreseen(self, answer: Answer) -> Trial:
        """A plan as its table entries predict it; nothing is measured."""
        sums, dense_ms = self.program.sums_of(answer), self._dense.dense_ms
        found = self._predicted(sums)
        comparison = foreseen(dense_ms, found.share, found.deviation / found.share)
        spent = self.budget.spent(comparison.pruned_ms, dense_ms)
        return Trial(answer, self.program.plan(answer), sums.kept, found, comparison, spent, confirmed=True)

    def _closest(self) -> Trial | None:
        return min(self.trials, key=lambda trial: abs(trial.spent - self._aim), default=None)

    def _unhurried(self) -> Trial:
        """The plan within all limits, whatever its latency: where it meets the budget, nothing else has to go."""
        answer = self._solve(self.program.unhurried)
        if not answer.levels:
            raise BudgetError(f"{self.program.constraints.text} cannot be met together; allow more of one of them")
        self.rounds += 1
        trial = self._measured(answer)
        if trial.spent <= 1:
            trial = self._confirmed(trial)
        if trial.spent <= 1:
            self.reason = f"{self.program.constraints.text} already asks for more than --latency {self.budget.text}"
        return trial

    def _accepted(self) -> Trial | None:
        """The confirmed trial of least damage that uses what is wanted of the budget.

        After some rounds a little more or less will do.
        """
        low, high = (LOW, HIGH) if self.rounds < _PATIENCE else _LENIENT
        fitting = [trial for trial in self.trials if low <= trial.spent <= high]
        for trial in sorted(fitting, key=lambda trial: trial.answer.objective):
            confirmed = self._confirmed(trial)
            if low <= confirmed.spent <= high:
                return confirmed
        return None

    def _candidates(self, table_ms: float) -> list[Answer]:
        """Plans to measure: the one for about a table budget, and from the second round on some near it.

        Where no plan meets the table budget it is the fastest plan of all; none that was measured is among them.

        Raises:
            BudgetError: the fastest plan of all was measured, and nothing meets the budget.
        """
        table_ms, answer = self._aimed(table_ms)
        feasible = bool(answer.levels)
        if not feasible:
            answer = self._solve(self.program.fastest)
            if self._known(answer) and all(trial.spent > 1 for trial in self.trials):
                raise self._unreachable()
        found = [] if self._known(answer) else [answer]
        if self.trials:
            near = [self._solve(partial(self.program.problem, share * table_ms)) for share in _BESIDE]
            found += sorted((other for other in near if self._is_near(other)), key=self._off)
        if not found and feasible:
            sure = [trial.answer.objective for trial in self.trials if trial.spent <= _LENIENT[1]]
            found = sorted(self._unsure(table_ms, answer, min(sure, default=math.inf)), key=self._off)
        return _distinct(found)[:_TOGETHER]

    def fuller(self, trial: Trial) -> Iterator[Trial]:
        """Confirmed plans of a little more damage than one that leaves some of the budget, which they use.

        The damage of each part is known to some tens of percent only: such a plan may be the better one.
        """
        table_ms, allowed = self._aim * trial.table_ms / trial.spent, _FULLER * trial.answer.objective
        answers = _distinct(sorted(self._unsure(table_ms, trial.answer, allowed), key=self._off))
        if answers:
            self.listener.note("again, with more of the budget:")
        for found in map(self._measured, answers[:_TOGETHER]):
            if _is_wanted(found) and _is_wanted(confirmed := self._confirmed(found)):
                yield confirmed

    def _unsure(self, table_ms: float, least: Answer, allowed: float) -> Iterator[Answer]:
        """Plans near a table budget that would be those of least damage if damage were a little other than it is.

        Only those that do less damage than is allowed; `least` is that of least damage.
        """
        rng = np.random.default_rng(len(self.trials))
        for doubt, share in itertools.product(_DOUBTS, (1.0, *_BESIDE)):
            program = replace(self.program, scores=blurred(self.program.scores, doubt, rng))
            answer = self._answer(program.problem(share * table_ms))
            damage = self.program.damage_of(answer) if answer.levels else math.inf
            if damage >= allowed or not self._is_near(answer):
                continue
            if self._refine(self.program.entries(answer)):
                self.program.refresh()
            if self._is_near(answer):
                yield answer.recounted(damage, least.bound)

    def _is_near(self, answer: Answer) -> bool:
        return bool(answer.levels) and not self._known(answer) and self._off(answer) <= _FAR

    def _off(self, answer: Answer) -> float:
        """How far from what is aimed at a plan is predicted to be, as a share of it."""
        return abs(self._spent(self.program.sums_of(answer)) / self._aim - 1)

    def _aimed(self, table_ms: float) -> tuple[float, Answer]:
        """The table budget moved until its plan is predicted to use what is aimed at, and the plan."""
        self._explore(table_ms)
        answer = self._solve(partial(self.program.problem, table_ms))
        for _ in range(_GUESSES):
            if not answer.levels or self._off(answer) < 0.006:
                break
            closer = table_ms * self._aim / self._spent(self.program.sums_of(answer))
            other = self._solve(partial(self.program.problem, closer))
            if not other.levels or self._off(other) >= self._off(answer):
                break
            table_ms, answer = closer, other
        return table_ms, answer

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

    def _known(self, answer: Answer) -> bool:
        return any(trial.answer.is_same_plan(answer) for trial in self.trials)

    def _solve(self, problem: Callable[[], Problem]) -> Answer:
        """Solve until every table entry the plan rests on is measured."""
        for _ in range(_REFINEMENTS):
            answer = self._answer(problem())
            if not answer.levels or not self._refine(self.program.entries(answer)):
                break
            self.program.refresh()
        return answer

    def _answer(self, problem: Problem) -> Answer:
        answer = solve(problem, self.solver, Limits(seconds=60, gap=PROVEN))
        self.solve_seconds += answer.seconds
        if not answer.levels and answer.status != "infeasible":
            raise SolverError(f"{answer.solver} found no plan within 60 s; try fewer groups (--lock) or --multiple")
        return answer

    def _confirmed(self, trial: Trial) -> Trial:
        """The trial as measured in several processes, in place of the one that was measured in one."""
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
        comparison = self.stopwatch.compare(self._builder(plan), BRIEF)
        sums = self.program.sums_of(answer)
        predicted = self._predicted(sums)
        ms = comparison.dense_ms
        spent = self.budget.spent(comparison.pruned_ms, ms)
        trial = Trial(answer, plan, sums.kept, predicted, comparison, spent)
        self.trials.append(trial)
        self.correction.add(sums, comparison.ratio / self._dense.ratio)
        self.listener.note(
            f"round {self.rounds}: predicted {predicted.share * ms:.3g} ± {predicted.deviation * ms:.2g} ms, "
            f"measured {comparison.pruned_ms:.3g} ms, {100 * spent:.1f}% of the budget"
        )
        return trial

    def _best(self) -> Trial | None:
        """The trial that comes closest to the budget and still meets it when it is measured again."""
        met = [trial for trial in self.trials if trial.spent <= 1]
        high = _LENIENT[1]
        closest = sorted(met, key=lambda trial: abs(trial.spent - high) + _RISK * (trial.spent > high))
        return next((t for t in map(self._confirmed, closest) if t.spent <= 1), None)

    def _unreachable(self) -> BudgetError:
        lowest = min(self.trials, key=lambda trial: trial.spent).measured
        return BudgetError(
            f"--latency {self.budget.text} cannot be reached: the lowest measured is {lowest.pruned_ms:.3g} ms, "
            f"{100 * lowest.ratio:.0f}% of the dense model's {lowest.dense_ms:.3g} ms; ask for more, or allow "
            "more with a lower --min-keep, a smaller --multiple or fewer --lock"
        )


def _is_wanted(trial: Trial) -> bool:
    return _LENIENT[0] <= trial.spent <= _LENIENT[1]


def _distinct(answers: Sequence[Answer]) -> list[Answer]:
    """The answers without those that are the same plan as one before."""
    return [one for i, one in enumerate(answers) if not any(one.is_same_plan(before) for before in answers[:i])]
