"""A program in full: its tables, and the relaxations of it that were solved so far."""

from __future__ import annotations

import math
from functools import cached_property

from onnx_mdp.solve.buckets import Plan, make_plan
from onnx_mdp.solve.factors import Model, at_state
from onnx_mdp.solve.relax import Pass, go_up


class Whole:
    """A model, its plan, laid out when it is first asked for, and relaxations by multiplier, each made once.

    Args:
        model: the program.
        like: as `make_plan` takes it.
    """

    def __init__(self, model: Model, like: Plan | None = None) -> None:
        self.model = model
        self.passes: dict[float, Pass] = {}
        self._like = like

    @cached_property
    def plan(self) -> Plan:
        """The elimination of the model.

        Raises:
            TooDenseError: as `make_plan` does.
        """
        return make_plan(self.model, self._like)

    def at(self, multiplier: float) -> Pass:
        """The relaxation at a multiplier; infinite stands for spending alone."""
        if multiplier not in self.passes:
            weights = (1.0, multiplier) if math.isfinite(multiplier) else (0.0, 1.0)
            self.passes[multiplier] = go_up(self.plan, *weights)
        return self.passes[multiplier]

    def at_state(self, variable: int, state: int) -> Whole:
        """The program with a choice at one of its states."""
        return Whole(at_state(self.model, variable, state), self.plan)
