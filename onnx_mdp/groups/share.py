"""How much of a network is prunable, and what locks the rest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from onnx_mdp.axes.terms import Factor, leaves
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.unshare import is_copy
from onnx_mdp.groups.couple import Freeze
from onnx_mdp.groups.find import Analysis
from onnx_mdp.groups.zero import carried


@dataclass(frozen=True)
class PrunableShare:
    """What at least one group can shrink, of all there is.

    Attributes:
        parameters: elements of the floating point initializers that carry units of a group.
        parameters_total: elements of all floating point initializers, each counted once however often it is used.
        macs: multiply-accumulates of the nodes with an operand that carries units of a group.
        macs_total: multiply-accumulates of all nodes whose shapes are known before the model runs.
    """

    parameters: int
    parameters_total: int
    macs: int
    macs_total: int

    @property
    def parameters_share(self) -> float:
        """Prunable parameters of all, 0 to 1."""
        return self.parameters / max(self.parameters_total, 1)

    @property
    def macs_share(self) -> float:
        """Prunable multiply-accumulates of all, 0 to 1."""
        return self.macs / max(self.macs_total, 1)

    def to_json(self) -> dict[str, float]:
        """Plain data for json.dumps, the shares included."""
        return {**asdict(self), "parameters_share": self.parameters_share, "macs_share": self.macs_share}


@dataclass(frozen=True)
class LockReason:
    """One reason that keeps parameters out of every group.

    Attributes:
        reason: the text of the freezes, without their nodes and details.
        parameters: elements of the initializers that no group shrinks and that this reason locks a dimension of;
            an initializer counts under each of its reasons, so reasons may add up to more than there is.
        dimensions: number of those initializers' dimensions that the reason locks, coupled ones counted once.
        example: the node (or graph boundary) that locks the largest of the initializers.
    """

    reason: str
    parameters: int
    dimensions: int
    example: str


def prunable_share(analysis: Analysis) -> PrunableShare:
    """The parameters and multiply-accumulates that the groups of an analysis reach."""
    network, sizes = analysis.network, _sizes(analysis)
    macs = node_macs(network)
    return PrunableShare(
        parameters=sum(size for name, size in sizes.items() if _shrinks(analysis, *_uses(analysis, name))),
        parameters_total=sum(sizes.values()),
        macs=sum(count for index, count in macs.items() if _shrinks(analysis, *network.nodes[index].inputs)),
        macs_total=sum(macs.values()),
    )


def lock_reasons(analysis: Analysis) -> tuple[LockReason, ...]:
    """What locks the parameters that no group shrinks, the reason with most of them first."""
    tallies: dict[str, _Tally] = {}
    listed = frozenset(locked.factor for locked in analysis.locked)
    for name, size in sorted(_sizes(analysis).items(), key=lambda item: -item[1]):
        uses = _uses(analysis, name)
        if _shrinks(analysis, *uses):
            continue
        locks: dict[str, list[_Lock]] = {}
        for lock in (lock for use in uses for lock in _locks(analysis, use, listed)):
            locks.setdefault(lock[1].kind, []).append(lock)
        for reason, found in locks.items():
            tally = tallies.setdefault(reason, _Tally(example=found[0][1].node))
            tally.parameters += size
            tally.factors.update(factor for factor, _ in found if factor)
    rows = [LockReason(reason, t.parameters, len(t.factors), t.example) for reason, t in tallies.items()]
    return tuple(sorted(rows, key=lambda row: -row.parameters))


@dataclass
class _Tally:
    example: str
    parameters: int = 0
    factors: set[Factor] = field(default_factory=set)


def _sizes(analysis: Analysis) -> dict[str, int]:
    """Elements of every floating point initializer of the input model; copies made for its uses are left out."""
    network = analysis.network
    names = [name for name in network.weights if analysis.coupling.is_weight(name) and not is_copy(name)]
    return {name: math.prod(network.shapes[name]) for name in names}


def _uses(analysis: Analysis, name: str) -> tuple[str, ...]:
    return analysis.network.uses.get(name, (name,))


def _shrinks(analysis: Analysis, *tensors: str) -> bool:
    """Whether any of the tensors carries units of a group."""
    axes, free = analysis.coupling.axes, analysis.by_factor
    return any(not free.keys().isdisjoint(carried(axes.get(name, ()))) for name in tensors)


_Lock = tuple[Factor | None, Freeze]


def _locks(analysis: Analysis, name: str, listed: frozenset[Factor]) -> list[_Lock]:
    """The freezes on a weight's axes; those on the windows of a kernel only where there is nothing else."""
    terms = analysis.coupling.axes.get(name, ())
    frozen = dict.fromkeys(leaf for term in terms for leaf in leaves(term) if leaf in analysis.reasons)
    if not frozen:
        return [(None, _why_uncoupled(analysis, name))]
    shown = [leaf for leaf in frozen if leaf in listed] or list(frozen)
    return [(leaf, freeze) for leaf in shown for freeze in analysis.reasons[leaf]]


def _why_uncoupled(analysis: Analysis, name: str) -> Freeze:
    readers = analysis.network.consumers.get(name, ())
    if not readers:
        return Freeze("no node reads it", name)
    single = math.prod(analysis.network.shapes[name]) == 1
    reason = "it has a single element" if single else "its axes are not followed"
    return Freeze(reason, f"{readers[0].op} {readers[0].name}")
