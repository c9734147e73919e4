"""The search for a device that is not here: plans are predicted from its table, not measured."""

from __future__ import annotations

from onnx_mdp.errors import BudgetError
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.solve.problem import Answer


class Forecast(Loop):
    """Takes the prediction for the measurement: what one round finds, the next cannot correct."""

    def _measured(self, answer: Answer) -> Trial:
        trial = self.foreseen(answer)
        self.trials.append(trial)
        ms = self._dense.dense_ms
        self.listener.note(
            f"plan {len(self.trials)}: predicted {trial.predicted.share * ms:.3g} ± "
            f"{trial.predicted.deviation * ms:.2g} ms, {100 * trial.spent:.1f}% of the budget"
        )
        return trial

    def _unreachable(self) -> BudgetError:
        lowest = min(self.trials, key=lambda trial: trial.spent).measured
        return BudgetError(
            f"--latency {self.budget.text} cannot be reached: the lowest that the table predicts is "
            f"{lowest.pruned_ms:.3g} ms, {100 * lowest.ratio:.0f}% of the dense model's {lowest.dense_ms:.3g} ms; ask "
            "for more, or allow more with a lower --min-keep, a smaller --multiple or fewer --lock"
        )
