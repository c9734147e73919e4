"""The search for a device that is not here: plans are predicted from its table, not measured."""

from __future__ import annotations

from onnx_mdp.errors import BudgetError
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.stopwatch import Comparison
from onnx_mdp.solve.problem import Answer

CLOCK = "table"


def foreseen(dense_ms: float, share: float, precision: float) -> Comparison:
    """A comparison that a table predicts."""
    return Comparison(dense_ms, share * dense_ms, dense_ms, share * dense_ms, CLOCK, precision)


class Forecast(Loop):
    """Takes the prediction for the measurement: what one round finds, the next cannot correct."""

    def _measured(self, answer: Answer) -> Trial:
        sums = self.program.sums_of(answer)
        promised, ms = self._predicted(sums), self._dense.dense_ms
        comparison = foreseen(ms, promised.share, promised.deviation / promised.share)
        spent = self.budget.spent(comparison.pruned_ms, ms)
        trial = Trial(answer, self.program.plan(answer), sums.kept, promised, comparison, spent, confirmed=True)
        self.trials.append(trial)
        self.listener.note(
            f"plan {len(self.trials)}: predicted {promised.share * ms:.3g} ± {promised.deviation * ms:.2g} ms, "
            f"{100 * spent:.1f}% of the budget"
        )
        return trial

    def _unreachable(self) -> BudgetError:
        lowest = min(self.trials, key=lambda trial: trial.spent).measured
        return BudgetError(
            f"--latency {self.budget.text} cannot be reached: the lowest that the table predicts is "
            f"{lowest.pruned_ms:.3g} ms, {100 * lowest.ratio:.0f}% of the dense model's {lowest.dense_ms:.3g} ms; ask "
            "for more, or allow more with a lower --min-keep, a smaller --multiple or fewer --lock"
        )
