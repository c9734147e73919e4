"""The search for the fastest model within a drop of accuracy: bisection over the latency, everything measured.

What is assumed is that of the plans of least damage, a faster one is no more accurate. Every step asks for the plan of
one latency, has it measured, recovered and judged, and goes on among faster plans where it is within the drop, among
slower ones where it is not. So the result is within the drop whatever holds; that nothing faster is holds as assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from onnx_mdp.errors import BudgetError
from onnx_mdp.graph.load import load
from onnx_mdp.pipeline.case import Case, Planner
from onnx_mdp.pipeline.judge import Judge
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.reporting import Outcome
from onnx_mdp.pipeline.stopwatch import Comparison
from onnx_mdp.quantities import Drop, LatencyBudget
from onnx_mdp.rewrite.plan import dense_plan

NEAR = 0.02  # of the dense model's latency: the search ends when what is known lies as close


class Probe(Loop):
    """Is content with a plan near the latency, on either side: what was measured is what the search goes on from."""

    def _accepted(self) -> Trial | None:
        closest = min(self.trials, key=self._distance)
        return self._confirmed(closest) if self._distance(closest) <= NEAR / 2 else super()._accepted()

    def _distance(self, trial: Trial) -> float:
        return abs(trial.measured.ratio - (self.budget.share or 1.0))


@dataclass(frozen=True, eq=False)
class Step:
    """A plan of the frontier, its latency as a share of the dense model's, and its accuracy.

    Attributes:
        asked: share that was asked for.
        share: share that was measured.
    """

    asked: float
    share: float
    accuracy: float
    outcome: Outcome


@dataclass(eq=False)
class Bisection:
    """Finds the fastest plan that is accurate enough.

    Attributes:
        attempt: the measured plan for a share of the dense model's latency; BudgetError where there is none.
        least: accuracy that is enough.
        tell: is given every step.
        facts: what was measured, step by step, as plain data.
        failed: why the fastest latencies have no plan, where they have none.
    """

    attempt: Callable[[float], Step]
    least: float
    tell: Callable[[int, Step], None]
    facts: list[dict[str, Any]] = field(default_factory=list)
    failed: BudgetError | None = None

    def run(self, low: float, high: float) -> Step | None:
        """The fastest plan found between two shares of the dense model's latency; None where none is accurate enough.

        Of the bounds neither is tried: at the upper nothing is cut, at the lower is the fastest plan of all.
        """
        best: Step | None = None
        while high - low > NEAR:
            share = (low + high) / 2
            step = self._tried(share)
            if step is None or step.accuracy < self.least:
                low = max(share, step.share) if step else share
                continue
            high = min(share, step.share)
            best = step if best is None or step.share <= best.share else best
        return best

    def _tried(self, share: float) -> Step | None:
        try:
            step = self.attempt(share)
        except BudgetError as error:
            self.failed = error
            return None
        self.facts.append({"asked": share, "share": step.share, "accuracy": step.accuracy})
        self.tell(len(self.facts), step)
        return step


@dataclass(frozen=True, eq=False)
class DropSearch:
    """Searches the fastest model within a drop of accuracy.

    Attributes:
        dense: the model as given against the same rewritten with nothing cut.
        plan: the measured and recovered plan of a latency budget.
    """

    planner: Planner
    case: Case
    judge: Judge
    drop: Drop
    dense: Comparison
    plan: Callable[[LatencyBudget], Outcome]

    def run(self, fastest: float) -> Outcome:
        """The fastest model found; the one with nothing cut where no faster one is within the drop.

        Args:
            fastest: share of the dense model's latency that the fastest plan takes.

        Raises:
            BudgetError: nothing within the drop is within the other limits.
        """
        dense = self.judge.dense
        self.planner.listener.note(f"dense: accuracy {self.judge.text(dense)}, {self.judge.evaluation.metric}")
        bisection = Bisection(self._attempt, self.drop.least(dense), self._tell)
        best = bisection.run(fastest, min(self.dense.ratio, 1.0))
        return replace(best.outcome if best else self._uncut(bisection), steps=bisection.facts)

    def _attempt(self, share: float) -> Step:
        outcome = self.plan(LatencyBudget(f"{100 * share:.3g}%", None, share))
        model = outcome.recovery.model if outcome.recovery else outcome.model
        model = self.case.finished(outcome.plan, model)
        with self.planner.clock.stage("evaluate"):
            accuracy = self.judge.accuracy(model)
        return Step(share, outcome.measured.ratio, accuracy, replace(outcome, accuracy=accuracy))

    def _tell(self, number: int, step: Step) -> None:
        accuracy = self.judge.text(step.accuracy)
        self.planner.listener.note(f"step {number}: {100 * step.share:.0f}% of the latency, accuracy {accuracy}")

    def _uncut(self, tried: Bisection) -> Outcome:
        """The model with nothing cut: rewritten where that is faster and no less accurate, else as given."""
        case, judge, dense = self.case, self.judge, self.dense
        if not case.constraints.allow_dense():
            raise self._impossible(tried)
        reason = f"no faster plan within --max-drop {self.drop.text} was found{self._closest(tried)}"
        self.planner.warn(f"nothing is cut: {reason}")
        plan = dense_plan(case.analysis)
        whole = case.cut(plan)
        with self.planner.clock.stage("evaluate"):
            accuracy = judge.accuracy(case.finished(plan, whole))
        if dense.ratio < 1 and accuracy >= self.drop.least(judge.dense):
            return Outcome(plan, whole, dense, reason, accuracy=accuracy)
        return Outcome(plan, load(case.given)[1], dense.same(), reason, accuracy=judge.dense)

    def _impossible(self, tried: Bisection) -> BudgetError:
        if tried.failed and not tried.facts:
            return tried.failed
        return BudgetError(
            f"--max-drop {self.drop.text} cannot be met with {self.case.constraints.text}{self._closest(tried)}; allow "
            "more of one of them"
        )

    def _closest(self, tried: Bisection) -> str:
        """What the slowest plan that was tried loses."""
        if not tried.facts:
            return ""
        fact = max(tried.facts, key=lambda fact: float(fact["share"]))
        left = self.judge.text(fact["accuracy"])
        return f": {100 * fact['share']:.0f}% of the latency leaves {left} of {self.judge.text(self.judge.dense)}"
