"""Near-optimal plans of one budget, compared after recovery.

Damage is measured cut by cut on a few inputs: each is known to some tens of percent, and many cuts together do more
than the sum of each alone. A stream is one cut that all layers share; what a plan takes from their widths instead is
many, and seems cheaper than it is, the more so the more is cut. So the same budget is searched again with other
damages, those of streams counted less and all of them off by what is not known of them, and held-out inputs decide.
A search measures many whole models. So the plan that it is likely to find is recovered first, and only where that is
not much farther from the dense model is anything measured: what is found may be another plan, and a better one.

Held-out inputs decide too where the plan of least damage leaves some of the budget: one that uses it, of a little more
damage as far as that is known, may be the better one.
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
from onnx_mdp.recover.recover import Recovery

_SHARES = (0.5, 0.2)
_FULLER, _WORSE = "more of the budget", "plans that use more of it are no better on held-out inputs"
_DOUBT = 0.3  # standard deviation of the logarithm of damage
_BETTER = 0.95  # of the divergence: less of a gain may be chance, on the few inputs that are held out
_PROMISING = 1.25  # times the divergence, up to which what is likely to be found is searched for

Essence = tuple[dict[str, int], frozenset[str]]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Plans that would do the least damage if damage were other than it is said to be.

    Attributes:
        streams: names of the groups of streams that many layers share.
        count: how many to try besides, with all damages off by something.
        seed: of what that is.
        around: measures damage around a plan, for one more; None where that is not asked for.
        promise: the trial that a loop is likely to end with, not measured; None if there is none.
        search: runs a loop.
        outcome: makes a trial of a loop an outcome.
        recover: recovers it.
    """

    streams: Collection[str]
    count: int
    seed: int
    around: Callable[[Loop, Trial], Scores] | None
    promise: Callable[[Loop], Trial | None]
    search: Callable[[Loop], Trial]
    outcome: Callable[[Loop, Trial], Outcome]
    recover: Callable[[Outcome], Recovery | None]

    def best(self, loop: Loop, trial: Trial) -> Outcome:
        """The outcome whose outputs are nearest to the dense model's on held-out inputs.

        Args:
            loop: the search with damage as it is.
            trial: what it found.
        """
        best, plans = self._recovered(loop, trial), [_essence(trial)]
        for name, other in self._doubted(loop, trial):
            if outcome := self._found(other, name, best, plans):
                best = self._nearer(loop, best, outcome, name)
        if trial.spent < LEAST_USED and not loop.program.budgets:  # these may ask for more than the latency does
            return self._fuller(loop, trial, best, plans)
        return best

    def _found(self, loop: Loop, name: str, best: Outcome, plans: list[Essence]) -> Outcome | None:
        """What a search with other damages finds that is not among the plans, if that may be nearer."""
        promised = self.promise(loop)
        if promised is None or _essence(promised) in plans:
            return None
        likely = self._recovered(loop, promised)
        if divergence(likely) > _PROMISING * divergence(best):
            plans.append(_essence(promised))
            return None
        loop.listener.note(f"again, with {name}:")
        try:
            trial = self.search(loop)
        except BudgetError:  # noise: the budget was met before
            return None
        if _essence(trial) in plans:
            return None
        plans.append(_essence(trial))
        if _essence(trial) == _essence(promised):
            return replace(self.outcome(loop, trial), recovery=likely.recovery)
        return self._recovered(loop, trial)

    def _fuller(self, loop: Loop, trial: Trial, best: Outcome, plans: list[Essence]) -> Outcome:
        """The best, or a plan that uses more of the budget if that is better."""
        other, worse = copy.copy(loop), False
        other.reason = ""
        for found in other.fuller(trial):
            if _essence(found) not in plans:
                plans.append(_essence(found))
                before, best = best, self._nearer(loop, best, self._recovered(other, found), _FULLER)
                worse |= best is before
        return replace(best, reason=_WORSE) if worse and best.reason else best

    def _recovered(self, loop: Loop, trial: Trial) -> Outcome:
        outcome = self.outcome(loop, trial)
        return replace(outcome, recovery=self.recover(outcome))

    def _nearer(self, loop: Loop, best: Outcome, outcome: Outcome, name: str) -> Outcome:
        """One of two outcomes; the second has to be clearly nearer."""
        if divergence(outcome) >= _BETTER * divergence(best):
            return best
        moved = f"{divergence(best):.3g} became {divergence(outcome):.3g}"
        loop.listener.note(f"kept, with {name}: {moved} on held-out inputs")
        return self._priced(loop, best, outcome)

    def _doubted(self, loop: Loop, trial: Trial) -> Iterator[tuple[str, Loop]]:
        """The same search with other scores, and what these are."""
        for name, scores in self._scores(loop, trial):
            yield name, loop.over(replace(loop.program, scores=scores))

    def _scores(self, loop: Loop, trial: Trial) -> Iterator[tuple[str, Scores]]:
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
        return replace(outcome, search=replace(outcome.search, answer=answer.recounted(damage, least)))


def _essence(trial: Trial) -> Essence:
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
