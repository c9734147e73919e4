"""The error of a module node by node: each is run in PyTorch on what ONNX Runtime computed for its inputs.

A node is compared with ONNX Runtime's; where the two differ, with what the evaluator of the `onnx` package makes of it
in double precision as well, as either may be the one that rounds more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnx_mdp.graph.expose import exposed
from onnx_mdp.torch import to_module
from onnx_mdp.torch.body import Body, Step, run
from tests.torch.double import Feeds, by_onnxruntime, distance, in_double


def node_errors(model: onnx.ModelProto, feeds: Feeds, tolerance: float) -> dict[str, float]:
    """The nodes whose error, relative to the largest element of an output, is above a tolerance."""
    module = to_module(model)
    steps = module._body.steps
    names = [name for step in steps for name in step.node.outputs if name]
    (expected,) = by_onnxruntime(exposed(model, names), [feeds], fused=False)
    known = {**feeds, **dict(zip(names, expected, strict=True))}
    values = {name: torch.from_numpy(np.asarray(value)) for name, value in known.items()}
    values |= {name: getattr(owner, leaf) for name, (owner, leaf) in module._places.items()}
    values |= module._body.literals
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    errors = {}
    for step in steps:
        outputs = tuple(name for name in step.node.outputs if name)
        with torch.no_grad():
            found = run(Body((), outputs, {}, (replace(step, last=()),)), values, training=False)
        results = [value.detach().numpy() for value in found]
        error = max(map(_error, results, (np.asarray(known[name]) for name in outputs)), default=0.0)
        if error > tolerance:
            error = max(map(_error, results, _by_the_standard(step, values, opsets)))
        if error > tolerance:
            errors[f"{step.node.op} {step.node.name}"] = error
    return errors


def _by_the_standard(step: Step, values: Mapping[str, torch.Tensor], opsets: Mapping[str, int]) -> list[np.ndarray]:
    """What the node's operator computes in double precision, from inputs in single."""
    given = {name: values[name].detach().numpy() for name in step.node.inputs if name}
    node = helper.make_node(step.node.op, step.node.inputs, step.node.outputs, **step.node.attributes)
    ends = [[onnx.ValueInfoProto(name=name) for name in names if name] for names in (given, step.node.outputs)]
    graph = helper.make_graph([node], "node", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()])
    found = ReferenceEvaluator(model).run(None, in_double(given))
    return [v.astype(np.float32) if v.dtype == np.float64 else v for v in map(np.asarray, found)]


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    """As `distance`; infinities and what is no number have to be the same."""
    if expected.dtype != found.dtype:
        return np.inf
    if expected.dtype.kind != "f" or expected.shape != found.shape:
        return distance(found, expected)
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    if not np.isfinite(expected[~same]).all() or not np.isfinite(found[~same]).all():
        return np.inf
    finite = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    return float(np.abs(found[~same] - expected[~same]).max(initial=0) / max(finite, 1e-30))
