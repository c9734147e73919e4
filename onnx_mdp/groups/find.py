"""Prunable groups: the factors that stayed free, with readable names, kinds and members."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnx_mdp.axes.terms import Factor, Prod, Term, factors, leaves, size
from onnx_mdp.errors import OptionError
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.groups.blocks import Block, find_blocks
from onnx_mdp.groups.couple import Coupling, Freeze, couple
from onnx_mdp.groups.zero import carried

NORMALIZED = "normalized"  # the kind of groups over which statistics are taken
_GENERATED = re.compile(r"(onnx::|val_|_v_|v\d|w_\d|\d)")
_FUSED_ATTENTION = ("Attention", "GroupQueryAttention", "MultiHeadAttention")
_SUFFIX = re.compile(r"[._/](weight|bias|kernel|gamma|beta|W|b)$")


@dataclass(frozen=True)
class Group:
    """Units that can only be cut together, everywhere they occur.

    Attributes:
        name: unique and stable: the first weight that produces the units, with the kind where one weight has several.
        kind: channel, hidden, stream, head, head_dim, qk, v or group; normalized where statistics are taken over it.
        factor: the free factor; its size is the number of units.
        members: (initializer, axis) pairs that carry the units, in graph order.
        floor: fewest units that leave a valid model (0 where the axis has other parts).
        pinned: how many of its last units have to stay.
        ranked: whether its units stand in the order of what they are worth, but for those that are pinned.
    """

    name: str
    kind: str
    factor: Factor
    members: tuple[tuple[str, int], ...]
    floor: int = 1
    pinned: int = 0
    ranked: bool = False

    @property
    def units(self) -> int:
        """Number of units before pruning."""
        return self.factor.size


@dataclass(frozen=True)
class Locked:
    """A dimension of the weights that may not be cut, and why."""

    name: str
    factor: Factor
    reasons: tuple[Freeze, ...]
    members: tuple[tuple[str, int], ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return self.factor.size


@dataclass(frozen=True, eq=False)
class Analysis:
    """What can be pruned in a network, and what cannot."""

    coupling: Coupling
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    locked: tuple[Locked, ...]

    @property
    def network(self) -> Network:
        """The network that was analyzed."""
        return self.coupling.network

    @cached_property
    def by_factor(self) -> Mapping[Factor, Group]:
        """The group of each factor that may be cut."""
        return {group.factor: group for group in self.groups}

    @cached_property
    def reasons(self) -> Mapping[Factor, tuple[Freeze, ...]]:
        """Why each factor that may not be cut is locked, whether by the network or by request."""
        return {**self.coupling.frozen, **{locked.factor: locked.reasons for locked in self.locked}}

    @cached_property
    def homes(self) -> Mapping[str, str]:
        """For groups whose weights all lie in one removable block, the smallest such block."""
        readers = {
            group.name: {node.index for name, _ in group.members for node in self.network.consumers[name]}
            for group in self.groups
        }
        around = {
            name: min((b for b in self.blocks if nodes <= b.nodes), key=lambda b: len(b.nodes), default=None)
            for name, nodes in readers.items()
        }
        return {name: block.name for name, block in around.items() if block}


def analyze(
    network: Network,
    locks: Iterable[str] = (),
    coupling: Coupling | None = None,
    pins: Container[tuple[str, int]] = (),
    ranked: Container[tuple[str, int]] = (),
    normalized: Container[tuple[str, int]] = (),
) -> Analysis:
    """Find the groups and blocks; those whose name or member matches a shell pattern in `locks` are locked.

    `coupling` is the network's if that is known already. The last unit of groups that have a member in `pins` has to
    stay; the units of those with one in `ranked` stand in order; those with one in `normalized` are of that kind, and
    not named by it.

    Raises:
        OptionError: a pattern matches no name, so that what it was to protect would be cut.
    """
    coupling = coupling or couple(network)
    roles = _attention_roles(coupling)
    free, frozen = [], []
    for factor, members in coupling.members.items():
        if factor in coupling.frozen:
            if _on_activations(coupling, members, factor):
                frozen.append(Locked(_label(coupling, factor, members), factor, coupling.frozen[factor], members))
        else:
            name = _label(coupling, factor, [member for member in members if member not in normalized])
            pinned = 1 if any(member in pins for member in members) else 0
            stand, counted = (any(member in some for member in members) for some in (ranked, normalized))
            kind = NORMALIZED if counted else _kind(coupling, factor, members, roles)
            free.append(Group(name, kind, factor, members, 1 + pinned, pinned, stand))
    return _lock(coupling, _floored(coupling, _named(free)), frozen, tuple(locks))


def _lock(coupling: Coupling, groups: Sequence[Group], frozen: list[Locked], locks: tuple[str, ...]) -> Analysis:
    def matched(*names: str) -> str | None:
        return next((p for p in locks if any(fnmatch.fnmatchcase(name, p) for name in names)), None)

    kept = []
    for group in groups:
        pattern = matched(group.name, *(name for name, _ in group.members))
        if pattern is None:
            kept.append(group)
        else:
            frozen.append(
                Locked(group.name, group.factor, (Freeze("it is locked by request", pattern),), group.members)
            )
    blocks = find_blocks(coupling)
    names = {*(g.name for g in groups), *(entry.name for entry in frozen), *(block.name for block in blocks)}
    _check_locks(locks, {*names, *coupling.network.weights})
    return Analysis(coupling, tuple(kept), tuple(b for b in blocks if matched(b.name) is None), tuple(frozen))


def _check_locks(locks: Iterable[str], names: Iterable[str]) -> None:
    for pattern in locks:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise OptionError(
                f"--lock {pattern}: no group, weight or block has such a name; onnx-mdp inspect lists them"
            )


def _on_activations(coupling: Coupling, members: tuple[tuple[str, int], ...], factor: Factor) -> bool:
    """Whether the factor lies on a tensor that is computed; the windows of kernels do not."""
    readers = {node.index: node for name, _ in members for node in coupling.network.consumers.get(name, ())}
    names = {n for node in readers.values() for n in (*node.inputs, *node.outputs) if n not in coupling.network.weights}
    return any(factor in leaves(term) for name in names for term in coupling.axes.get(name, ()))


def _producers(coupling: Coupling, factor: Factor, members: Sequence[tuple[str, int]]) -> dict[str, Node]:
    """The members that put the units on an output, with the node that does."""
    found: dict[str, Node] = {}
    for name, _ in members:
        for node in _appliers(coupling.network, name):
            if any(factor in leaves(term) for out in node.outputs for term in coupling.axes.get(out, ())):
                found.setdefault(name, node)
    return found


def _appliers(network: Network, weight: str) -> Iterator[Node]:
    """The nodes that bring a weight and data together, seen through those that only move the weight."""
    for node in network.consumers.get(weight, ()):
        if network.varying.isdisjoint(node.outputs):
            for output in node.outputs:
                yield from _appliers(network, output)
        else:
            yield node


def _label(coupling: Coupling, factor: Factor, members: Sequence[tuple[str, int]]) -> str:
    names = list(_producers(coupling, factor, members)) or [name for name, _ in members]
    readable = [name for name in names if not _GENERATED.match(name)]
    return _SUFFIX.sub("", (readable or names)[0])


def _kind(coupling: Coupling, factor: Factor, members: Sequence[tuple[str, int]], roles: _Roles) -> str:
    if factor in roles.batch:
        return "head"
    if factor in roles.contracted:
        return "head_dim" if factor in roles.free else "qk"
    if factor in roles.free:
        return "v"
    if any(_counts_groups(coupling, factor, name) for name, _ in members):
        return "group"
    producers = _producers(coupling, factor, members)
    copies = {twin.second for twin in coupling.network.twins}
    matrices = {name: node for name, node in producers.items() if len(coupling.axes[name]) > 1 and name not in copies}
    sources = {node.index: node.op for node in matrices.values() if node.index in coupling.contracting}
    if len(sources) > 1:
        return "stream"
    ops = sources.values() or [node.op for node in producers.values()]
    return "channel" if any("Conv" in op for op in ops) else "hidden"


def _counts_groups(coupling: Coupling, factor: Factor, name: str) -> bool:
    """Whether the factor counts the groups of a grouped convolution with several channels a group."""
    first = coupling.axes[name][0]
    grouped = any(
        n.op.startswith("Conv") and n.attributes.get("group", 1) > 1 for n in coupling.network.consumers[name]
    )
    return grouped and isinstance(first, Prod) and first.parts[0] is factor


@dataclass(frozen=True)
class _Roles:
    """Factors by what they do in products of two activations."""

    batch: frozenset[Factor]
    contracted: frozenset[Factor]
    free: frozenset[Factor]


def _attention_roles(coupling: Coupling) -> _Roles:
    batch: set[Factor] = set()
    contracted: set[Factor] = set()
    free: set[Factor] = set()
    for contraction in coupling.contractions:
        node = contraction.node
        tensors = [name for name, _ in contraction.operands]
        if len(tensors) < 2 or any(name not in coupling.network.varying for name in tensors):
            continue
        left, right, out = (carried(coupling.axes.get(n, ())) for n in (*tensors[:2], node.outputs[0]))
        batch |= left & right & out
        contracted |= set(leaves(contraction.term))
        free |= (left ^ right) & out
    for node in coupling.network.nodes:
        if node.op in _FUSED_ATTENTION and node.index in coupling.lines:
            heads, width = _heads_and_width(coupling.axes[node.outputs[0]])
            batch |= heads
            free |= width
            contracted |= {leaf for c in coupling.contractions if c.node is node for leaf in leaves(c.term)} - heads
    return _Roles(frozenset(batch), frozenset(contracted), frozenset(free))


def _heads_and_width(output: tuple[Term, ...]) -> tuple[set[Factor], set[Factor]]:
    """The factors of a fused attention's result that count heads, and those of the values' width."""
    if len(output) == 4:
        return set(leaves(output[1])), set(leaves(output[3]))
    parts = factors(output[-1])  # none where one head of one unit is left
    heads, width = ({leaf for part in some for leaf in leaves(part)} for some in (parts[:-1], parts[-1:]))
    return heads, width


def _named(groups: Sequence[Group]) -> list[Group]:
    """Groups with unique names: the kind is added where a label has several, a number where that is not enough."""
    labels = Counter(group.name for group in groups)
    named = [replace(g, name=f"{g.name}/{g.kind}") if labels[g.name] > 1 else g for g in groups]
    seen: Counter[str] = Counter()
    result = []
    for group in named:
        seen[group.name] += 1
        result.append(replace(group, name=f"{group.name}#{seen[group.name]}") if seen[group.name] > 1 else group)
    return result


def _floored(coupling: Coupling, groups: Sequence[Group]) -> list[Group]:
    """Allow zero units where every axis keeps other parts, even with all such groups at zero and the rest at one."""
    on: dict[Factor, list[Term]] = {}
    for terms in coupling.axes.values():
        for term in terms:
            for leaf in leaves(term):
                on.setdefault(leaf, []).append(term)
    ones = {group.factor: 1 for group in groups}
    empty: dict[Factor, int] = {}
    result = []
    for group in groups:
        trial = {**ones, **empty, group.factor: 0}
        if not group.pinned and all(size(term, trial) > 0 for term in on[group.factor]):
            empty[group.factor] = 0
            group = replace(group, floor=0)
        result.append(group)
    return result
