"""How far the training is, by steps and by time, and the learning rate there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass
class Pace:
    """How far the training is.

    Attributes:
        steps: steps there will be; infinite where only time ends it.
        seconds: time there is; infinite where only steps end it.
        warmup: share of the training in which the learning rate rises.
        spent: seconds that runs before this one took.
    """

    steps: float
    seconds: float
    warmup: float
    spent: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds since training began, over all runs."""
        return self.spent + time.perf_counter() - self.started

    @property
    def is_over(self) -> bool:
        """Whether there is no time left."""
        return self.elapsed >= self.seconds

    def factor(self, step: int) -> float:
        """What the highest learning rate is multiplied by at a step: a line up, then half a cosine down to zero."""
        done = min(max((step + 1) / (self.steps + 1), self.elapsed / self.seconds), 1.0)
        if done < self.warmup:
            return done / self.warmup
        return (1 + math.cos(math.pi * (done - self.warmup) / max(1 - self.warmup, 1e-9))) / 2
