"""Searching again with damage measured around the plan that the first search found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from onnx_mdp.errors import BudgetError
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.around import Around
from onnx_mdp.importance.base import Scores
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.stopwatch import Comparison
from onnx_mdp.runtime.base import Runtime

AnyLoop = TypeVar("AnyLoop", bound=Loop)


@dataclass(frozen=True, eq=False)
class Again:
    """Measures damage around plans, on inputs held out from the scorer, for so many rounds at most."""

    analysis: Analysis
    inputs: Inputs
    runtime: Runtime
    rounds: int

    def run(self, loop: AnyLoop, trial: Trial, dense: Comparison) -> tuple[AnyLoop, Trial]:
        """The search and its result of least damage, after searching around each result that is better than before."""
        best, least = (loop, trial), self._damage(loop, trial)
        for _ in range(self.rounds):
            other = self._around(*best)
            try:
                found = other.run(dense)
            except BudgetError:  # noise: the budget was met before
                break
            damage = self._damage(other, found)
            loop.listener.note(f"around the plan: damage {least:.3g} became {damage:.3g} {loop.program.scores.unit}")
            if damage >= least:
                break
            best, least = (other, found), damage
        return best

    def scores(self, loop: Loop, trial: Trial) -> Scores:
        """Damage measured around a plan, with weights as they are."""
        around = self._measure(loop)
        return around.rescored(around.place(trial.plan.widths(), trial.plan.removed), loop.listener.step)

    def _around(self, loop: AnyLoop, trial: Trial) -> AnyLoop:
        """The same search with damage measured around a plan; what it measured of latency is kept."""
        return loop.over(replace(loop.program, scores=self.scores(loop, trial)))

    def _damage(self, loop: Loop, trial: Trial) -> float:
        around = self._measure(loop)
        return around.damage(around.place(trial.plan.widths(), trial.plan.removed))

    def _measure(self, loop: Loop) -> Around:
        return Around(self.analysis, loop.program.scores, self.inputs, self.runtime)
