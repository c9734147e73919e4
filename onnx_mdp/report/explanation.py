"""What `explain` found, as text: one line a fact, so that it can be searched."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from onnx_mdp.groups.couple import Freeze
from onnx_mdp.groups.explain import (
    Explanation,
    FactorEntry,
    GroupEntry,
    LockedEntry,
    MemberEntry,
    NodeEntry,
    TensorAxes,
    TensorEntry,
)

_WRAP = textwrap.TextWrapper(120, "    ", "        ", break_long_words=False, break_on_hyphens=False)
_GLUE = "\0"  # stands for a space that no line breaks at
_MOST_TENSORS = 40
_LEGEND = (
    "axes: name is a group, can be cut; !16 may not be cut; 16 lies along no weight; "
    "(a b) product; [a + b] one after the other"
)


def explanation(found: Explanation) -> str:
    """Every node with its rule and axes, or all there is to know of a name."""
    if found.name is None:
        return "\n".join(_overview(found))
    sections = [_tensor(found.tensor)] if found.tensor else []
    sections += [_group(found.group)] if found.group else []
    sections += [_locked(locked, count) for locked, count in Counter(found.locked).items()]
    return "\n\n".join("\n".join(section) for section in sections)


def _overview(found: Explanation) -> Iterator[str]:
    refused = sum(node.refusal is not None for node in found.nodes)
    yield f"{found.model}: {len(found.nodes)} nodes, {refused} refused"
    yield _LEGEND
    for node in found.nodes:
        yield ""
        yield _node(node)
        yield from (f"    {_axes(tensor)}" for tensor in node.outputs)


def _node(node: NodeEntry) -> str:
    return f"{node.name}  {node.op}: {node.rule or f'refused: {node.refusal}'}"


def _axes(tensor: TensorAxes) -> str:
    if tensor.shape is None:
        return f"{tensor.name}: its shape is known only when it runs"
    if tensor.axes is None:
        return f"{tensor.name}: {_shape(tensor.shape)}, its axes are not followed"
    return f"{tensor.name} [{', '.join(tensor.axes)}]"


def _tensor(entry: TensorEntry) -> Iterator[str]:
    tensor = entry.tensor
    role = f"{entry.role}{' and graph output' if entry.is_output else ''}"
    yield f"tensor {tensor.name}: {role}{'' if tensor.shape is None else f', {_shape(tensor.shape)}'}"
    if tensor.shape is None:
        yield "    its shape is known only when it runs"
    elif tensor.axes is None:
        yield "    its axes are not followed"
    for axis, (size, term) in enumerate(zip(tensor.shape or (), tensor.axes or (), strict=False)):
        yield f"    axis {axis}: {size} = {term}"
    if len(entry.uses) > 1:
        yield f"each of its uses has a copy that is cut on its own: {', '.join(entry.uses)}"
    if len(entry.stored_as) > 1:
        yield f"one weight that is stored more than once, and is cut alike: {', '.join(entry.stored_as)}"
    for factor, count in Counter(entry.factors).items():
        yield from _factor(factor, count)
    if entry.producer:
        yield "computed by"
        yield f"    {_node(entry.producer)}"
    if entry.consumers:
        yield "read by"
        yield from (f"    {_node(node)}" for node in entry.consumers)


def _factor(factor: FactorEntry, count: int) -> Iterator[str]:
    """One factor, or several that differ in nothing."""
    on = f"ax{'is' if len(factor.axes) == 1 else 'es'} {', '.join(map(str, factor.axes))}"
    place = f"{', '.join([factor.text] * count)} on {on}"
    if factor.group:
        yield f"{place}: a group of {factor.units} units"
    elif factor.reasons:
        yield f"{place}: may not be cut"
        yield from _reasons(factor.reasons)
    else:
        yield f"{place}: lies along no weight, so there is nothing to cut"


def _reasons(freezes: Sequence[Freeze]) -> Iterator[str]:
    """Every reason once, with all the nodes that give it; lines break between nodes only."""
    places: dict[str, list[str]] = {}
    for freeze in freezes:
        places.setdefault(freeze.reason, []).append(freeze.node)
    for reason, nodes in places.items():
        text = f"{reason} ({', '.join(node.replace(' ', _GLUE) for node in nodes)})"
        yield _WRAP.fill(text).replace(_GLUE, " ")


def _group(group: GroupEntry) -> Iterator[str]:
    yield f"group {group.name}: {group.kind}, {group.units} units, at least {group.floor} left after a cut"
    yield f"in removable block {group.block}" if group.block else "in no removable block"
    yield from _members(group.members)
    yield "tensors"
    yield from (f"    {_axes(tensor)}" for tensor in group.tensors[:_MOST_TENSORS])
    if len(group.tensors) > _MOST_TENSORS:
        yield f"    and {len(group.tensors) - _MOST_TENSORS} more (--json lists them)"
    if group.resizes:
        yield "integers that change with it"
        yield from (f"    {resize.slot} = {resize.value} = |{resize.term}|" for resize in group.resizes)
    if group.rescales:
        yield "multiplied with a power of the share that is left"
        yield from (f"    {scale.target} times |{scale.term}|^{scale.power:g}" for scale in group.rescales)


def _locked(locked: LockedEntry, count: int) -> Iterator[str]:
    times = f"{count} times " if count > 1 else ""
    yield f"locked dimension {locked.name}: {times}{locked.units} units may not be cut"
    yield from _reasons(locked.reasons)
    yield from _members(locked.members)


def _members(members: Sequence[MemberEntry]) -> Iterator[str]:
    yield "weights, one position a unit unless said otherwise"
    for member in members:
        several = f": {member.per_unit} positions a unit" if member.per_unit > 1 else ""
        yield f"    {member.initializer} {_shape(member.shape)}, axis {member.axis} = {member.term}{several}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
