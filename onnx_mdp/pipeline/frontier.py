"""The search for a frontier: the plans of least damage at many latencies, from one table, none of them measured.

All latencies are solved for at once, from one preparation. Then the table entries that the plans rest on are measured
where they were interpolated, and the table budget of every plan that is not predicted to take what was asked is moved.
This is repeated until every plan was solved for on the tables as they are, is predicted to take what was asked and no
more, and rests on measured entries; roughly at first, which finds most of the entries and table budgets, then to the
proven optimum. Every plan so proven counts for every latency it is predicted to meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnx_mdp.errors import BudgetError, SolverError
from onnx_mdp.latency.correct import Correction, Prediction
from onnx_mdp.latency.fill import Entry, Fill
from onnx_mdp.pipeline.program import Program
from onnx_mdp.solve.problem import Answer, Problem, Status
from onnx_mdp.solve.solve import Limits, solve, solve_many

_LOW, _AIM = 0.994, 0.998  # of what was asked: from where a prediction is near enough, and what is aimed at
_CLOSE = 0.002  # relative distance of table budgets below which none between them is tried
_ROUNDS = 24
_ROUGH, _EXACT = Limits(gap=1e-2), Limits()
_REFINEMENTS = 20


@dataclass(eq=False)
class _Target:
    """A latency to reach: the table budget to solve for next, and those between which the right one lies.

    Attributes:
        share: what is asked, of the dense model's latency.
        limit: table milliseconds to solve for.
    """

    share: float
    limit: float
    low: float = 0.0
    high: float = math.inf
    done: bool = False

    def reopen(self) -> None:
        """Start over from the present limit: the tables have changed."""
        self.low, self.high, self.done = 0.0, math.inf, False

    def judge(self, kept: float, share: float) -> None:
        """Move the limit after its plan, of `kept` table milliseconds, was predicted to take `share`."""
        spent = share / self.share
        wanted = kept * _AIM / spent
        if spent <= 1:
            self.low = self.limit
            self.done = spent >= _LOW or wanted <= self.limit
        else:
            self.high = min(self.high, kept)
        if not self.low < wanted < (1 - _CLOSE / 4) * self.high:
            wanted = (self.low + self.high) / 2 if self.low else 0.95 * self.high
        self.done = self.done or self.high - self.low < _CLOSE * self.high
        self.limit = self.limit if self.done else wanted


@dataclass(eq=False)
class FrontierSearch:
    """Finds plans by what a table predicts.

    Attributes:
        program: the program, whose tables `fill` refines.
        correction: from table sums to shares of the rewritten model's latency.
        scale: that latency as a share of the given model's.
    """

    program: Program
    fill: Fill
    correction: Correction
    scale: float
    solver: str
    solve_seconds: float = 0.0
    solved: int = 0
    _pool: list[Answer] = field(default_factory=list)
    _refined: int = 0

    def predicted(self, answer: Answer) -> Prediction:
        """The share of the given model's latency that a plan is predicted to take."""
        found = self.correction.predict(self.program.sums_of(answer))
        return Prediction(found.share * self.scale, found.deviation * self.scale)

    def frontier(self, shares: Sequence[float]) -> list[Answer | None]:
        """The plan of least damage for each share of the dense model's latency; None where the table knows no plan.

        Raises:
            BudgetError: the limits besides latency exclude each other.
        """
        self._settled(self.program.unhurried, "")
        self._settled(self.program.fastest, "")
        dense = self.program.dense_latency()
        targets = [_Target(share, dense * share / self.scale) for share in shares]
        self._search(targets)
        known = [(self.predicted(answer).share, self.program.damage_of(answer), answer) for answer in self._pool]
        return [_best([plan for plan in known if plan[0] <= share]) for share in shares]

    def fastest(self, damage: float) -> Answer:
        """The plan of least table latency whose damage is at most `damage`.

        Raises:
            BudgetError: there is none, or none that saves time.
        """
        self._settled(self.program.unhurried, "")
        least = self._settled(lambda: self.program.within(damage), f"--damage-max {damage:g}")
        dense = self.program.dense_latency()
        if self.program.sums_of(least).kept < dense * (1 - 1e-9):
            return least
        useful = self._answered(solve(self.program.problem(dense * (1 - 1e-6)), self.solver))
        raise BudgetError(
            f"--damage-max {damage:g} leaves nothing to cut that would save time: the least damage that does is "
            f"{self.program.damage_of(useful):.3g}; allow more, or find what each latency costs with --from and --to"
        )

    def reach(self) -> float:
        """The share of the given model's latency that the fastest plan is predicted to take.

        Raises:
            BudgetError: the limits besides latency exclude each other.
        """
        return self.predicted(self._settled(self.program.fastest, "")).share

    def lowest(self) -> float:
        """The lowest share of the dense model's latency that a plan is predicted to take, of those that came up."""
        return min(self.predicted(answer).share for answer in self._pool)

    def _search(self, targets: Sequence[_Target]) -> None:
        """Solve for the targets, refine what their plans rest on and move their table budgets, until all are met.

        An entry that is measured matters first to the plans that rest on it. Once all of them are settled, every target
        is solved for again, as any plan may have become better than another.
        """
        limits, ends, changed = _ROUGH, len(self._pool), True
        for _ in range(_ROUNDS):
            todo = [target for target in targets if not target.done]
            if not todo and not changed:
                break
            if not todo:
                limits, changed, todo = _EXACT, False, list(targets)
                del self._pool[ends:]
                for target in targets:
                    target.reopen()
            answers = self._solved(todo, limits)
            stale = [target for target, answer in zip(todo, answers, strict=True) if self._unknown([answer])]
            refined = self._refine(answers)
            for target, answer in zip(todo, answers, strict=True):
                self._judge(target, answer)
            for target in stale if refined else ():
                target.reopen()
            changed |= refined

    def _solved(self, targets: Sequence[_Target], limits: Limits) -> list[Answer]:
        budgets = [target.limit for target in targets]
        found = solve_many(self.program.problem(budgets[0]), budgets, limits, self.solver)
        answers = [self._answered(answer) for answer in found]
        self._pool += [answer for answer in answers if answer.has_plan]
        return answers

    def _judge(self, target: _Target, answer: Answer) -> None:
        if answer.has_plan:
            target.judge(self.program.sums_of(answer).kept, self.predicted(answer).share)
        else:
            target.done = True  # the fastest plan of all is known: it is this one, or none

    def _settled(self, problem: Callable[[], Problem], asked: str) -> Answer:
        """The answer to a problem whose table entries are all measured."""
        while True:
            answer = self._answered(solve(problem(), self.solver))
            if not answer.has_plan:
                raise self._impossible(asked)
            if not self._refine([answer]):
                self._pool.append(answer)
                return answer

    def _refine(self, answers: Sequence[Answer]) -> bool:
        """Measure the entries that plans rest on, where they are not known; whether that changed the tables."""
        unknown = self._unknown(answers)
        if not unknown or self._refined >= _REFINEMENTS or not self.fill.refine(unknown):
            return False
        self._refined += 1
        self.program.refresh()
        return True

    def _unknown(self, answers: Sequence[Answer]) -> list[Entry]:
        """The entries that plans rest on and that are not known."""
        plans = [answer for answer in answers if answer.has_plan]
        entries = dict.fromkeys(entry for answer in plans for entry in self.program.entries(answer))
        return [(table, index) for table, index in entries if index not in table.known]

    def _answered(self, answer: Answer) -> Answer:
        self.solve_seconds += answer.seconds
        self.solved += 1
        if not answer.has_plan and answer.status is not Status.INFEASIBLE:
            raise SolverError(f"{answer.solver} found no plan within 60 s; try fewer groups (--lock) or --multiple")
        return answer

    def _impossible(self, asked: str) -> BudgetError:
        text = self.program.constraints.text
        if not asked:
            return BudgetError(f"{text} cannot be met together; allow more of one of them")
        least = self.program.damage_of(self._pool[0])
        return BudgetError(
            f"{asked} cannot be met with {text}: the least damage of a plan within {text} is {least:.3g}; allow more"
        )


def _best(plans: Sequence[tuple[float, float, Answer]]) -> Answer | None:
    """Of plans with their predicted shares and damages, that of least damage; of equals the fastest."""
    return min(plans, key=lambda plan: (plan[1], plan[0]))[2] if plans else None
