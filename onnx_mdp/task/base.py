"""What every way to measure accuracy has in common."""

from __future__ import annotations

from typing import Protocol


class Evaluation(Protocol):
    """Measures how good a model is at its task; higher is better."""

    @property
    def metric(self) -> str:
        """What is measured, in a word."""

    @property
    def inputs(self) -> int | None:
        """Inputs that it is measured on; None where the user's function alone knows."""

    @property
    def held_out(self) -> bool:
        """Whether nothing that we do is fitted to these inputs."""

    def accuracy(self, model: str | bytes) -> float:
        """The accuracy of a model, given as a path or its bytes.

        Raises:
            EvaluationError: it cannot be measured.
        """
