"""One currency for channels, heads, widths and blocks: what a cut does to the model's outputs, measured.

A scorer's damage is an error at the layers that read a group, and says little about which layers matter. So every group
is cut alone to one or two widths, and every block removed alone, on inputs outside those that the scorer learnt from:
in sample a last layer read KL 0.03 where it was 0.99. The scorer's curve c keeps its shape between: damage is a c^p
through the measured points, split among the blocks that the group's layers lie in.

A trial is the network with the weights at dropped positions set to zero, which is what the cut network computes; a
scorer that fits the remaining weights anew gives those instead, as a `Patch`. A removed block is its branch at zero, as
in the cut network; where its mean is put into a bias behind it, that is a `Removal` (`onnx_mdp.importance.means`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_mdp.divergence import Divergence
from onnx_mdp.errors import OptionError
from onnx_mdp.groups.cut import masked_weights
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.base import Curve, Scores
from onnx_mdp.importance.replay import Replay, Trial
from onnx_mdp.importance.shape import scaled, shapes
from onnx_mdp.inputs.base import Array, Inputs
from onnx_mdp.rewrite.plan import Plan, factors, removed_blocks
from onnx_mdp.runtime.base import Runtime

Mend = Callable[[Plan], Mapping[str, Array]]
"""Initializers of the dense network, in full shape, with which it computes what a cut one would."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Effort:
    """How much is measured: shares of each group's units to keep in trials, the number of inputs, and how often again.

    `rounds` is the number of times that damage may be measured around the plan found, for another search; once where
    weights are fitted anew. `candidates` is that of plans of doubtful damage, to be compared after recovery.
    """

    levels: tuple[float, ...]
    inputs: int
    rounds: int = 0
    candidates: int = 0


_MUCH = 10.0  # times the median group's damage, beyond which a group is tried at larger widths too
_FINEST = 1 / 16  # of a group's units: the least that is cut in such a trial

_EFFORTS = {
    "fast": Effort((), 0),
    "balanced": Effort((0.5,), 64),
    "thorough": Effort((0.5, 0.75), 128, rounds=2, candidates=4),
}


def find_effort(name: str) -> Effort:
    """The effort of a name.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in _EFFORTS:
        raise OptionError(f"--effort {name}: choose from {', '.join(_EFFORTS)}")
    return _EFFORTS[name]


def split_inputs(inputs: Inputs | None, effort: Effort) -> tuple[Inputs | None, Inputs | None]:
    """The inputs for the scorer, and those held out for the currency: at most a third. None if there are too few."""
    if inputs is None:
        return None, None
    batch = max((spec.batch or 1 for spec in inputs.specs), default=1)
    held = min(effort.inputs, inputs.count // 3) // batch * batch
    if not held:
        return inputs, None
    return inputs.take(held, inputs.count), inputs.take(0, held)


def calibrate(
    analysis: Analysis,
    scores: Scores,
    inputs: Inputs,
    runtime: Runtime,
    effort: Effort,
    mend: Mend | None = None,
    progress: Progress = lambda done, total: None,
) -> Scores:
    """The scores with all damage in one measured unit; the orders stay.

    Args:
        analysis: the groups and blocks.
        scores: a scorer's.
        inputs: held out from those that the scorer used.
        runtime: what the trials run on.
        effort: how many trials; without levels, or inputs that fill a batch, the scores are returned as they are.
        mend: the network's weights after a cut; by default zero where units are dropped, and all others as they were.
        progress: is told trials done and trials in all.
    """
    replay = Replay(analysis.network, inputs, runtime)
    if not effort.levels or not replay.runs:
        return scores
    divergence = Divergence.fit(replay.outputs())
    mend = mend or partial(_masked, analysis)
    widths = {group.name: _widths(group, effort) for group in analysis.groups}
    removals = [Trial(block.name, block.silenced, partial(mend, Plan({}, (block.name,)))) for block in analysis.blocks]
    found: dict[str, float] = {}
    trials = [*_cuts(analysis, scores, widths, mend), *removals]
    while trials:
        found |= replay.judged(trials, divergence.divergence, progress)
        finer = _finer(analysis, widths, found)
        trials = _cuts(analysis, scores, finer, mend)
        widths = {name: [*widths[name], *finer.get(name, ())] for name in widths}
    removed = {block.name: found[block.name] for block in analysis.blocks}
    curves: list[Curve] = []
    for group in analysis.groups:
        points = {width: found[_key(group, width)] for width in widths[group.name]}
        most = removed.get(analysis.homes.get(group.name, ""), np.inf)
        curves += scaled(shapes(analysis, scores, group), points, most)
    return replace(scores, curves=tuple(curves), removal=removed, unit=divergence.unit)


def _cuts(analysis: Analysis, scores: Scores, widths: Mapping[str, list[int]], mend: Mend) -> list[Trial]:
    return [
        Trial(_key(group, width), tuple(name for name, _ in group.members), partial(mend, _cut(scores, group, width)))
        for group in analysis.groups
        for width in widths.get(group.name, ())
    ]


def _finer(analysis: Analysis, widths: Mapping[str, list[int]], found: Mapping[str, float]) -> dict[str, list[int]]:
    """A width closer to the whole for every group of which even the least cut so far did a lot of damage.

    Damage saturates: what a stream costs at half its width, where nothing is left of the outputs, says little of what
    it costs at most of it, which is all that a plan would take.
    """
    least = {g.name: (found[_key(g, max(widths[g.name]))], g) for g in analysis.groups if widths[g.name]}
    if not least:
        return {}
    much = _MUCH * float(np.median([damage for damage, _ in least.values()]))
    halves = {name: (max(widths[name]) + g.units) // 2 for name, (damage, g) in least.items() if damage > much}
    return {
        name: [width]
        for name, width in halves.items()
        if max(widths[name]) < width <= (1 - _FINEST) * least[name][1].units
    }


def _key(group: Group, width: int) -> str:
    return f"{group.name}={width}"


def _masked(analysis: Analysis, plan: Plan) -> dict[str, Array]:
    return masked_weights(analysis.coupling, factors(analysis, plan), removed_blocks(analysis, plan))


def _cut(scores: Scores, group: Group, width: int) -> Plan:
    return Plan({group.name: np.sort(scores.order[group.name][:width])}, ())


def _widths(group: Group, effort: Effort) -> list[int]:
    """The widths to try, ascending: as near to the effort's levels as the group admits; none if it cannot be cut."""
    wanted = (int(np.clip(round(level * group.units), group.floor, group.units - 1)) for level in effort.levels)
    return sorted(set(wanted)) if group.floor < group.units else []
