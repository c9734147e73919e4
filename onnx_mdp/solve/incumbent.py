"""The best plan known, the best bound proven, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx_mdp.solve.buckets import Plan


class OutOfTimeError(Exception):
    """The deadline passed in the middle of a search; never leaves `solve`."""


@dataclass(eq=False)
class Incumbent:
    """The best solution within `limit` so far, as states of the variables of `plan`; `cost` is infinite without one.

    `rounding` is what sums of the objective's numbers can be off by.
    """

    plan: Plan
    limit: float
    gap: float
    rounding: float
    deadline: float
    cost: float = math.inf
    bound: float = -math.inf
    states: Mapping[int, int] = field(default_factory=dict)

    def consider(self, plan: Plan, states: Mapping[int, int], cost: float, spent: float) -> None:
        """Take a solution if it is within the limit and better."""
        if spent <= self.limit and cost < self.cost:
            self.cost, self.plan, self.states = cost, plan, states

    def is_close(self) -> bool:
        """Whether the solution is proven to the asked gap."""
        return self.leaves(self.bound)

    def leaves(self, bound: float) -> bool:
        """Whether solutions that cost at least `bound` can be left alone."""
        return bound >= self.cost - max(self.gap * abs(self.cost), self.rounding)
