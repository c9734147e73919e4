"""How good models are at their task, next to the dense one: what it is measured by, and on which inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx_mdp.errors import OptionError
from onnx_mdp.graph.external import Loadable, loadable
from onnx_mdp.importance.currency import Effort, split_inputs
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.quantities import Drop, metric_text
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.task.base import Evaluation
from onnx_mdp.task.function import ByFunction, EvalLike
from onnx_mdp.task.top1 import Top1, set_aside


@dataclass(frozen=True, eq=False)
class Judge:
    """Measures models by what the dense one was measured by; `dense` is its accuracy."""

    evaluation: Evaluation
    dense: float

    @classmethod
    def of(cls, evaluation: Evaluation, dense: str | bytes) -> Judge:
        """A judge that measures the dense model, which is given as a path or its bytes."""
        return cls(evaluation, evaluation.accuracy(dense))

    def accuracy(self, model: Loadable) -> float:
        """The accuracy of a model."""
        with loadable(model) as reference:
            return self.evaluation.accuracy(reference)

    def text(self, accuracy: float) -> str:
        """An accuracy in words."""
        return metric_text(accuracy, self.dense)

    def fact(self, accuracy: float) -> dict[str, Any]:
        """What became of the accuracy, as plain data."""
        found = {name: getattr(self.evaluation, name) for name in ("metric", "inputs", "held_out")}
        return {"dense": self.dense, "pruned": accuracy, **found}

    def coarse(self, drop: Drop) -> str:
        """Why the inputs cannot tell a drop from none; empty where they can."""
        count = self.evaluation.inputs
        if count is None or drop.amount * count >= 1:
            return ""
        return (
            f"{count} held-out inputs tell accuracy in steps of {100 / count:.2g} points, more than --max-drop "
            f"{drop.text}: not one more answer may be wrong; give more labelled --inputs"
        )


def choose_evaluation(
    inputs: Inputs | None, asked: EvalLike | None, runtime: Runtime, effort: Effort
) -> Evaluation | None:
    """What accuracy is measured by: the user's function, else labels, on inputs held out from the scorer if there are.

    None where there is neither.
    """
    if asked is not None:
        return ByFunction(asked)
    if inputs is None or inputs.labels is None:
        return None
    _, held = split_inputs(inputs, effort)
    return Top1(held or inputs, runtime, held_out=held is not None)


def choose_apart(
    inputs: Inputs | None, asked: EvalLike | None, runtime: Runtime, drop: Drop, seed: int
) -> tuple[Evaluation, Inputs | None]:
    """What accuracy is searched by, and the inputs that are left to plan with.

    A search by accuracy needs more inputs than damage is measured on, and such as have decided nothing else.

    Raises:
        OptionError: there are neither labels nor a function.
        EvaluationError: there are too few labels.
    """
    if asked is not None:
        return ByFunction(asked), inputs
    if inputs is None or inputs.labels is None:
        raise OptionError(f"--max-drop {drop.text}: of what? give --inputs with --labels, or --eval module:function")
    rest, apart = set_aside(inputs, seed)
    return Top1(apart, runtime, held_out=True), rest
