"""`inspect`: what can be pruned in a model, what cannot, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from onnx_mdp.axes.terms import Factor
from onnx_mdp.config import InspectOptions
from onnx_mdp.graph.load import load
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.groups.share import lock_reasons, prunable_share
from onnx_mdp.pipeline.stages import ModelLike, prepare
from onnx_mdp.quantities import parse_shapes
from onnx_mdp.streams.find import find_streams
from onnx_mdp.streams.select import selectable


def inspect(model: ModelLike, options: InspectOptions | None = None) -> dict[str, Any]:
    """Groups, blocks and locked dimensions of a model and how much of it they are, as plain data."""
    options = options or InspectOptions()
    source, proto = load(model)
    prepared = prepare(proto, parse_shapes(options.shape), lossless=options.lossless)
    network = prepared.network
    analysis = analyze(network, options.lock)
    return {
        "model": source.name,
        "parameters": source.parameters,
        "inputs": {name: list(shape) for name, shape in network.inputs.items()},
        "lossless": prepared.lossless(),
        "prunable": prunable_share(analysis).to_json(),
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "units": group.units,
                "floor": group.floor,
                "members": [{"initializer": name, "axis": axis} for name, axis in group.members],
            }
            for group in analysis.groups
        ],
        "blocks": [{"name": block.name, "entry": block.entry, "nodes": len(block.nodes)} for block in analysis.blocks],
        "locked": [
            {"name": locked.name, "units": locked.units, "reasons": [str(reason) for reason in locked.reasons]}
            for locked in analysis.locked
        ],
        "locked_by": [asdict(row) for row in lock_reasons(analysis)],
        "streams": list(_streams(analysis)),
        "unknown_operators": _unknown(analysis),
    }


def _streams(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """The streams that can be rotated before they are cut, and those under a normalization that cannot.

    Of these, units can be selected where nothing but normalizations is in the way.
    """
    names: dict[Factor, str] = {locked.factor: locked.name for locked in analysis.locked}
    names |= {group.factor: group.name for group in analysis.groups}
    found, fixed = find_streams(analysis.coupling)
    cuts = selectable(analysis.coupling)
    for stream in found:
        if stream.factor in names:
            name = names[stream.factor]
            yield {"name": name, "units": stream.width, "rotates": True, "selects": False, "reason": ""}
    for left in fixed:
        if left.factor in names:
            fact = {"name": names[left.factor], "units": left.factor.size, "rotates": False}
            yield {**fact, "selects": left.factor in cuts, "reason": str(left.freeze)}


def _unknown(analysis: Analysis) -> dict[str, int]:
    """Operators without a rule, and how many nodes have them."""
    counts: dict[str, int] = {}
    for index, reason in analysis.coupling.refusals.items():
        op = analysis.network.nodes[index].op
        if reason == f"operator {op} has no rule":
            counts[op] = counts.get(op, 0) + 1
    return counts
