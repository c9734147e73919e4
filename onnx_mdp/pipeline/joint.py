"""The closed loop for several latency budgets: one plan, solved for all of them at once and measured at each place.

The program has one table and one budget for every place. Every round solves it for table budgets at which the plan is
predicted to use what is aimed at, measures the plan at all places, and corrects each place's prediction by what was
measured there. It ends when the plan meets every budget and uses one of them up, or when no round comes closer. Only a
plan that was measured within every budget is an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import onnx

from onnx_mdp.errors import BudgetError, SolverError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.latency.correct import Prediction, Sums
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.loop import AIM, HIGH, LOW
from onnx_mdp.pipeline.sides import Side
from onnx_mdp.pipeline.stopwatch import Comparison
from onnx_mdp.rewrite.plan import Plan, plan_edits
from onnx_mdp.solve.problem import PROVEN, Answer, Problem, Status
from onnx_mdp.solve.solve import Limits, solve

_ROUNDS = 10
_GUESSES = 8
_REFINEMENTS = 6
_STEP = 5e-4  # below the table milliseconds of a plan that missed, where the next one has to lie
_ANY = 100.0  # times the dense model's table milliseconds: a budget that never binds
_NEAR = 0.006  # of what is aimed at, within which a prediction will do


@dataclass(frozen=True, eq=False)
class JointTrial:
    """One plan, measured at every place.

    Attributes:
        sums: what its table entries add up to, at each place.
        spent: the part of each budget that its measured latency uses.
        confirmed: whether several processes have measured it at each place.
    """

    answer: Answer
    plan: Plan
    sums: Sequence[Sums]
    predicted: Sequence[Prediction]
    measured: Sequence[Comparison]
    spent: Sequence[float]
    confirmed: bool = False

    @property
    def fits(self) -> bool:
        """Whether it is within every budget."""
        return max(self.spent) <= 1


@dataclass(eq=False)
class JointLoop:
    """Searches the plan of least damage that meets several latency budgets.

    Attributes:
        sides: the budgets with their programs; plans are those of the first one's.
    """

    sides: Sequence[Side]
    solver: str
    listener: Listener
    trials: list[JointTrial] = field(default_factory=list)
    solve_seconds: float = 0.0
    reason: str = ""
    _aims: list[float] = field(default_factory=list)  # parts of the budgets to aim at
    _limits: list[float] = field(default_factory=list)  # table milliseconds to solve for
    _highs: list[float] = field(default_factory=list)  # those of plans that missed the budget

    def run(self) -> JointTrial:
        """The plan of least damage found that meets all budgets.

        Raises:
            BudgetError: none is known; the message names what is the lowest at each place.
        """
        program = self.sides[0].program
        if program.budgets and (trial := self._unhurried()):
            return trial
        full = [side.program.dense_latency() for side in self.sides]
        self._highs, self._aims = [math.inf] * len(full), [AIM] * len(full)
        self._move(full, [s.spent(s.predicted(Sums(ms, ms)).share) for s, ms in zip(self.sides, full, strict=True)])
        while len(self.trials) < _ROUNDS:
            answer = self._aimed()
            if not answer.has_plan or self._known(answer):
                self.reason = "no plan is predicted to lie between the last that meets the budgets and those that miss"
                break
            trial = self._measured(answer)
            if LOW <= max(trial.spent) <= HIGH:
                trial = self._confirmed(trial)
            if LOW <= max(trial.spent) <= HIGH:
                return trial
            self._learn(trial)
        return self._best()

    def _unhurried(self) -> JointTrial | None:
        """The plan within all other limits whatever its latency, where it meets every latency budget."""
        program = self.sides[0].program
        others = [(side.program, side.program.dense_latency() * _ANY) for side in self.sides]
        answer = self._solve(lambda: program.problem(others[0][1], others[1:]))
        if not answer.has_plan:
            raise BudgetError(f"{program.constraints.text} cannot be met together; allow more of one of them")
        trial = self._measured(answer)
        trial = self._confirmed(trial) if trial.fits else trial
        if not trial.fits:
            return None
        self.reason = f"{program.constraints.text} already asks for more than the latencies"
        return trial

    def _learn(self, trial: JointTrial) -> None:
        """Aim lower where a plan missed, by as much, and again higher after one that was faster than it had to be."""
        for i, spent in enumerate(trial.spent):
            if spent > HIGH:
                self._highs[i] = min(self._highs[i], trial.sums[i].kept * (1 - _STEP))
                self._aims[i] *= AIM / spent
            elif max(trial.spent) < LOW:
                self._aims[i] = math.sqrt(self._aims[i] * AIM)
        self._move([sums.kept for sums in trial.sums], trial.spent)

    def _move(self, kept: Sequence[float], spent: Sequence[float]) -> None:
        """Aim every table budget by a plan's table milliseconds and the parts of the budgets that it uses."""
        aims = [aim * ms / part for aim, ms, part in zip(self._aims, kept, spent, strict=True)]
        self._limits = list(map(min, aims, self._highs))

    def _aimed(self) -> Answer:
        """The plan for table budgets moved until it is predicted to use what is aimed at, and no more anywhere."""
        before: Answer | None = None
        for _ in range(_GUESSES):
            answer = self._solve(self._problem)
            if not answer.has_plan:
                return before or answer
            sums = self._sums(answer)
            spent = [s.spent(s.predicted(at).share) for s, at in zip(self.sides, sums, strict=True)]
            self._move([at.kept for at in sums], spent)
            used = max(part / aim for part, aim in zip(spent, self._aims, strict=True))
            if used <= 1 + _NEAR:
                if used >= 1 - _NEAR or (before and before.is_same_plan(answer)):
                    return answer
                before = answer
        return before or answer

    def _problem(self) -> Problem:
        first, *others = zip((side.program for side in self.sides), self._limits, strict=True)
        return first[0].problem(first[1], others)

    def _solve(self, problem: Callable[[], Problem]) -> Answer:
        """Solve until every table entry the plan rests on is measured, at every place."""
        for _ in range(_REFINEMENTS):
            answer = solve(problem(), self.solver, Limits(seconds=60, gap=PROVEN))
            self.solve_seconds += answer.seconds
            if not answer.has_plan and answer.status is not Status.INFEASIBLE:
                raise SolverError(f"{answer.solver} found no plan within 60 s; try fewer groups (--lock) or --multiple")
            refined = [side.refine([answer]) for side in self.sides if answer.has_plan]
            if not any(refined):
                break
        return answer

    def _sums(self, answer: Answer) -> list[Sums]:
        return [side.program.sums_of(answer) for side in self.sides]

    def _known(self, answer: Answer) -> bool:
        return any(trial.answer.is_same_plan(answer) for trial in self.trials)

    def _builder(self, plan: Plan) -> Callable[[], onnx.ModelProto]:
        analysis = self.sides[0].program.analysis
        return partial(rewrite, analysis.network.model, plan_edits(analysis, plan))

    def _measured(self, answer: Answer) -> JointTrial:
        """The plan's model, the same one at every place."""
        plan, sums = self.sides[0].program.plan(answer), self._sums(answer)
        predicted = [side.predicted(at) for side, at in zip(self.sides, sums, strict=True)]
        measured = [side.place.stopwatch.compare(self._builder(plan)) for side in self.sides]
        for side, at, found in zip(self.sides, sums, measured, strict=True):
            side.correction.add(at, found.ratio / side.place.dense.ratio)
        trial = JointTrial(answer, plan, sums, predicted, measured, self._spent(measured))
        self.trials.append(trial)
        parts = [
            f"{found.pruned_ms:.3g} ms ({100 * spent:.1f}% of {side.place.budget.text})"
            for side, found, spent in zip(self.sides, measured, trial.spent, strict=True)
        ]
        self.listener.note(f"round {len(self.trials)}: measured {', '.join(parts)}")
        return trial

    def _spent(self, measured: Sequence[Comparison]) -> list[float]:
        pairs = zip(self.sides, measured, strict=True)
        return [side.place.budget.spent(found.pruned_ms, found.dense_ms) for side, found in pairs]

    def _confirmed(self, trial: JointTrial) -> JointTrial:
        """The trial as measured in several processes at every place, in place of the one measured in one."""
        if trial.confirmed:
            return trial
        pairs = zip(self.sides, trial.measured, strict=True)
        measured = [side.place.stopwatch.confirm(self._builder(trial.plan), before) for side, before in pairs]
        found = replace(trial, measured=measured, spent=self._spent(measured), confirmed=True)
        self.trials[self.trials.index(trial)] = found
        return found

    def _best(self) -> JointTrial:
        met = sorted((trial for trial in self.trials if trial.fits), key=lambda trial: trial.answer.objective)
        best = next((t for t in map(self._confirmed, met) if t.fits), None)
        if best is None:
            raise self._unreachable()
        if max(best.spent) < LOW:
            self.reason = self.reason or f"{len(self.trials)} rounds did not come closer"
        else:
            self.reason = ""
        return best

    def _unreachable(self) -> BudgetError:
        asked = " and ".join(side.place.option for side in self.sides)
        lowest = []
        for side in self.sides:
            alone = solve(side.program.fastest(), self.solver)
            share = side.predicted(side.program.sums_of(alone)).share
            dense = side.place.dense.dense_ms
            lowest.append(f"{share * dense:.3g} of {dense:.3g} ms for {side.place.option}")
        found = "no plan is predicted to meet all of them"
        if self.trials:
            closest = min(self.trials, key=lambda trial: max(trial.spent))
            used = " and ".join(f"{100 * spent:.1f}%" for spent in closest.spent)
            found = f"the closest of {len(self.trials)} plans measured used {used} of the budgets"
        return BudgetError(
            f"{asked}: {found}; the lowest predicted for each alone are {', '.join(lowest)}; ask for more, or allow "
            "more with a lower --min-keep, a smaller --multiple or fewer --lock"
        )
