"""Near-optimal plans of one budget, compared after recovery.

Damage is measured cut by cut on a few inputs: each is known to some tens of percent, and many cuts together do more
than the sum of each alone. A stream is one cut that all layers share; what a plan takes from their widths instead is
many, and seems cheaper than it is, the more so the more is cut. So the same budget is searched again with other
damages, those of streams counted less and all of them off by what is not known of them, and held-out inputs decide.
So they do where the plan of least damage leaves some of the budget: one that uses it, of a little more damage as far as
that is known, may be the better one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnx_mdp.errors import BudgetError
from onnx_mdp.importance.base import Scores, blurred
from onnx_mdp.pipeline.loop import LEAST_USED, Loop, Trial
from onnx_mdp.pipeline.reporting import Outcome

_SHARES = (0.5, 0.2)
_FULLER, _WORSE = "more of the budget", "plans that use more of it are no better on held-out inputs"
_DOUBT = 0.3  # standard deviation of the logarithm of damage
_BETTER = 0.95  # of the divergence: less of a gain may be chance, on the few inputs that are held out


@dataclass(frozen=True, eq=False)
class Candidates:
    """Plans that would do the least damage if damage were other than it is said to be.

    Attributes:
        streams: names of the groups of streams that many layers share.
        count: how many to try besides, with all damages off by something.
        seed: of what that is.
        around: measures damage around a plan, for one more; None where that is not asked for.
        search: runs a loop.
        outcome: makes a trial of a loop a recovered outcome.
    """

    streams: Collection[str]
    count: int
    seed: int
    around: Callable[[Loop, Trial], Scores] | None
    search: Callable[[Loop], Trial]
    outcome: Callable[[Loop, Trial], Outcome]

    def best(self, loop: Loop, trial: Trial) -> Outcome:
        """The outcome whose outputs are nearest to the dense model's on held-out inputs.

        Args:
            loop: the search with damage as it is.
            trial: what it found.
        """
        best, plans = self.outcome(loop, trial), [_essence(trial)]
        worse = False  # those that use more of the budget
        for name, other, found in self._others(loop, trial):
            if _essence(found) in plans:
                continue
            plans.append(_essence(found))
            outcome = self._priced(loop, best, self.outcome(other, found))
            if divergence(outcome) < _BETTER * divergence(best):
                moved = f"{divergence(best):.3g} became {divergence(outcome):.3g}"
                loop.listener.note(f"kept, with {name}: {moved} on held-out inputs")
                best = outcome
            else:
                worse |= name == _FULLER
        return replace(best, reason=_WORSE) if worse and best.reason else best

    def _others(self, loop: Loop, trial: Trial) -> Iterator[tuple[str, Loop, Trial]]:
        """Other plans, the searches that found them, and what these went by."""
        for name, scores in self._doubted(loop, trial):
            other = loop.over(replace(loop.program, scores=scores))
            loop.listener.note(f"again, with {name}:")
            try:
                found = self.search(other)
            except BudgetError:  # noise: the budget was met before
                continue
            yield name, other, found
        if trial.spent < LEAST_USED and not loop.program.budgets:  # these may ask for more than the latency does
            other = copy.copy(loop)
            other.reason = ""
            for found in other.fuller(trial):
                yield _FULLER, other, found

    def _doubted(self, loop: Loop, trial: Trial) -> Iterator[tuple[str, Scores]]:
        """Other scores, and what they are."""
        scores, rng = loop.program.scores, np.random.default_rng(self.seed)
        for share in _SHARES if self.streams else ():
            yield f"streams at {share:g} of their damage", lighter(scores, self.streams, share)
        for _ in range(self.count):
            yield f"damage off by a random {100 * _DOUBT:.0f} %", blurred(scores, _DOUBT, rng)
        if self.around is not None:
            yield "damage measured around the plan", self.around(loop, trial)

    def _priced(self, loop: Loop, best: Outcome, outcome: Outcome) -> Outcome:
        """The outcome with its damage as it was measured, and as far above the least sum as that is."""
        if outcome.search is None:
            return outcome
        answer, least = outcome.search.answer, best.search.answer.bound if best.search else 0.0
        damage = loop.program.damage_of(answer)
        answer = replace(answer, objective=damage, bound=min(damage, least))
        return replace(outcome, search=replace(outcome.search, answer=answer))


def _essence(trial: Trial) -> tuple[dict[str, int], frozenset[str]]:
    """What tells plans of one case apart: the widths, and the blocks that go."""
    return trial.plan.widths(), frozenset(trial.plan.removed)


def divergence(outcome: Outcome) -> float:
    """How far a recovered outcome is from the dense model on held-out inputs."""
    found = outcome.recovery
    return float("inf") if found is None else min(found.before, found.after)


def lighter(scores: Scores, groups: Collection[str], share: float) -> Scores:
    """The scores with a share of the damage of some groups."""
    curves = (replace(c, damage=share * c.damage) if c.group in groups else c for c in scores.curves)
    return replace(scores, curves=tuple(curves))
