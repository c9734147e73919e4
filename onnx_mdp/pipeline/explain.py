"""`explain`: every node's rule and axes, or all there is to know of one tensor, group or locked dimension."""

from __future__ import annotations

import difflib

from onnx_mdp.config import ExplainOptions
from onnx_mdp.errors import UnknownNameError
from onnx_mdp.graph.load import load
from onnx_mdp.groups.explain import Explainer, Explanation
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.pipeline.stages import ModelLike, prepare
from onnx_mdp.quantities import parse_shapes

_SUGGESTED = 3


def explain(model: ModelLike, name: str | None = None, options: ExplainOptions | None = None) -> Explanation:
    """The rule and the axes of every node, or of a name: the tensor, group and locked dimensions called that.

    Raises:
        UnknownNameError: nothing has that name; the message gives the nearest ones.
    """
    options = options or ExplainOptions()
    source, proto = load(model)
    network = prepare(proto, parse_shapes(options.shape), lossless=options.lossless).network
    analysis = analyze(network, options.lock)
    explainer = Explainer(analysis)
    found = explainer.explain(source.name, name)
    if name is not None and not (found.tensor or found.group or found.locked):
        raise UnknownNameError(_unknown(source.name, name, analysis, explainer))
    return found


def _unknown(model: str, name: str, analysis: Analysis, explainer: Explainer) -> str:
    """What to say of a name that nothing has."""
    node = next((node for node in analysis.network.nodes if node.name == name), None)
    if node:
        outputs = " or ".join(output for output in node.outputs if output)
        return f"{model}: {name!r} is a node; ask for what it computes: {outputs}"
    names = (*(g.name for g in analysis.groups), *(e.name for e in analysis.locked), *explainer.tensors())
    near = _nearest(name, tuple(dict.fromkeys(names)))
    hint = f"the nearest are {', '.join(near)}" if near else "without a name, explain lists every tensor"
    return f"{model}: no tensor, group or locked dimension is named {name!r}; {hint}"


def _nearest(name: str, names: tuple[str, ...]) -> list[str]:
    """Names that contain the text, the shortest first, then those that are spelled alike."""
    holding = sorted((other for other in names if name.lower() in other.lower()), key=len)
    alike = difflib.get_close_matches(name, names, _SUGGESTED)
    return list(dict.fromkeys((*alike, *holding)))[:_SUGGESTED]
