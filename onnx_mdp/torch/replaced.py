"""What a pruned model has in place of the dense one's weights, where it is more than a part of them.

Rotations of streams and layers fitted anew change weights; they keep their names. What a rotation takes out of the
graph, a normalization's shift or a layer's scale, does nothing from then on: nothing is added, or multiplied by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import onnx
import torch

from onnx_mdp.axes.terms import Term
from onnx_mdp.errors import PlanError
from onnx_mdp.graph.network import Network
from onnx_mdp.graph.stored import stored
from onnx_mdp.graph.unshare import original_name
from onnx_mdp.graph.weights import FLOATS
from onnx_mdp.groups.couple import couple
from onnx_mdp.torch.tensors import DTYPES, to_torch

_USE = re.compile(r"/use\d+$")  # a copy that a rotation made
_ADDS, _MULTIPLIES = ("Add", "Sub"), ("Mul", "Div")


def replaced(network: Network, content: Mapping[str, Any], pruned: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """The weights by the dense model's names that differ from what the plan's cut leaves of them.

    Raises:
        PlanError: the pruned model has weights that the dense one has not, or one of them in several forms.
    """
    held, kept = _held(network, pruned), content["initializers"]
    part = {name for name, values in held.items() if _is_part(network, name, values, kept.get(name, {}))}
    neutral = _neutral(network, content, held) if content.get("streams") else {}
    return {name: values for name, values in {**held, **neutral}.items() if name not in part}


def epsilons(network: Network, pruned: onnx.ModelProto) -> dict[str, float]:
    """The epsilons of normalizations, by the names of their scales, that the pruned model has otherwise."""
    before = {n.inputs[1]: n.attributes["epsilon"] for n in network.nodes if "epsilon" in n.attributes}
    found = {node.input[1]: a.f for node in pruned.graph.node for a in node.attribute if a.name == "epsilon"}
    return {name: value for name, value in found.items() if name in before and value != before[name]}


def _held(network: Network, pruned: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """The pruned model's weights by the names that the dense one has for them; single numbers it may have more of."""
    names = {original_name(name) for name in network.weights}
    held: dict[str, torch.Tensor] = {}
    for name, tensor in stored(pruned).items():
        origin = next((n for n in (name, original_name(name), _USE.sub("", name)) if n in names), None)
        if tensor.data_type not in FLOATS or (origin is None and math.prod(tensor.dims) == 1):
            continue
        if origin is None:
            raise PlanError(
                f"the pruned model adds {name!r}, which the dense one lacks: no parameter can hold it. Give the layer "
                "a bias of its own, or train the pruned model with onnx_mdp.torch.to_module"
            )
        values = to_torch(tensor)
        if not torch.equal(held.setdefault(origin, values), values) and values.numel() > 1:
            raise PlanError(
                f"{origin!r} is used in several places, and the pruned model needs it in another form in each: give "
                "each place a parameter of its own, and export again"
            )
    return held


def _is_part(network: Network, name: str, values: torch.Tensor, kept: Mapping[str, Any]) -> bool:
    """Whether they are what a cut leaves of a weight; single numbers are the business of the code around them."""
    whole = to_torch(network.weights.stored(name))
    for axis, positions in kept.items():
        whole = whole.index_select(int(axis), torch.tensor(positions, dtype=torch.int64))
    if kept and whole.shape != values.shape:
        sizes = " and ".join("x".join(map(str, v.shape)) for v in (whole, values))
        raise PlanError(f"the plan and the pruned model have {name!r} at {sizes}; give the model that this plan made")
    return values.numel() == 1 or bool(torch.equal(values, whole))


def _neutral(network: Network, content: Mapping[str, Any], held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that a rotation took out of the graph, as they do nothing."""
    axes = couple(network).axes
    sizes: dict[Term, int] = {}
    for name, values in held.items():
        sizes |= dict(zip(axes.get(name, ()), values.shape, strict=False))
    found: dict[str, torch.Tensor] = {}
    for name in network.weights:
        gone = network.is_float_weight(name) and original_name(name) not in held and name not in content["initializers"]
        value = _nothing(network, name) if gone else None
        if value is not None:
            terms = axes.get(name, ())
            shape = [sizes.get(term, size) for term, size in zip(terms, network.shapes[name], strict=True)]
            found[name] = torch.full(shape, value, dtype=DTYPES[network.types[name]])
    return found


def _nothing(network: Network, name: str) -> float | None:
    """What does nothing where a weight is read: zero, one, or None."""
    node = network.consumers[name][0]
    if node.op in _ADDS or (len(node.inputs) > 2 and node.inputs[2] == name):
        return 0.0
    return 1.0 if node.op in _MULTIPLIES else None
