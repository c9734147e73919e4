"""The best plan known, the best bound proven, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


class OutOfTimeError(Exception):
    """The deadline passed in the middle of a search; never leaves `solve`."""


@dataclass(eq=False)
class Incumbent:
    """The best plan within `limit` so far; `cost` is infinite until there is one.

    `rounding` is what sums of the objective's numbers can be off by.
    """

    limit: float
    gap: float
    rounding: float
    deadline: float
    cost: float = math.inf
    bound: float = -math.inf
    states: dict[int, int] = field(default_factory=dict)

    def consider(self, states: dict[int, int], cost: float, spent: float) -> None:
        """Take a plan if it is within the limit and better."""
        if spent <= self.limit and cost < self.cost:
            self.cost, self.states = cost, states

    def is_close(self) -> bool:
        """Whether the plan is proven to the asked gap."""
        return self.leaves(self.bound)

    def leaves(self, bound: float) -> bool:
        """Whether plans that cost at least `bound` can be left alone."""
        return bound >= self.cost - max(self.gap * abs(self.cost), self.rounding)
