"""Plans that cut more of streams than sums of damage say, compared after recovery.

Damage is measured cut by cut, and many cuts together do more than the sum of each alone. A stream is one cut that all
layers share; what a plan takes from their widths instead is many, and seems cheaper than it is, the more so the more is
cut. So the same budget is searched again with the damage of streams counted less, and held-out inputs decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from onnx_mdp.errors import BudgetError
from onnx_mdp.importance.base import Scores
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.reporting import Outcome

_SHARES = (0.5, 0.2)
_BETTER = 0.95  # of the divergence: less of a gain may be chance, on the few inputs that are held out


@dataclass(frozen=True, eq=False)
class Weighing:
    """Tries other weights of streams.

    Attributes:
        streams: names of their groups.
        search: runs a loop.
        outcome: makes a trial of a loop a recovered outcome.
    """

    streams: Collection[str]
    search: Callable[[Loop], Trial]
    outcome: Callable[[Loop, Trial], Outcome]

    def run(self, loop: Loop, trial: Trial) -> Outcome:
        """The outcome whose outputs are nearest to the dense model's on held-out inputs."""
        best, plans = self.outcome(loop, trial), [_essence(trial)]
        for share in _SHARES:
            program = replace(loop.program, scores=lighter(loop.program.scores, self.streams, share))
            other = loop.over(program)
            loop.listener.note(f"again, with streams at {share:g} of their damage:")
            try:
                found = self.search(other)
            except BudgetError:  # noise: the budget was met before
                continue
            if _essence(found) in plans:
                continue
            plans.append(_essence(found))
            outcome = self._priced(loop, best, self.outcome(other, found))
            if divergence(outcome) < _BETTER * divergence(best):
                moved = f"{divergence(best):.3g} became {divergence(outcome):.3g}"
                loop.listener.note(f"streams count {share:g}: {moved} on held-out inputs")
                best = outcome
        return best

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
