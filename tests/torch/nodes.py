"""The error of a module node by node: each is run in PyTorch on what ONNX Runtime computed for its inputs.

On random weights some networks magnify rounding a hundredfold, and detectors that choose among nearly equal scores
choose otherwise after any rounding. Neither says anything of an operator; its own error on given inputs does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import torch

from onnx_mdp.graph.expose import exposed
from onnx_mdp.torch import to_module
from onnx_mdp.torch.body import Body, run


def node_errors(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, float]:
    """The error of every node relative to the largest element of its output; infinite where shapes differ."""
    module = to_module(model)
    steps = module._body.steps
    names = [name for step in steps for name in step.node.outputs if name]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        exposed(model, names).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    known = {**feeds, **dict(zip(names, session.run(None, feeds), strict=True))}
    values = {name: torch.from_numpy(np.asarray(value)) for name, value in known.items()}
    values |= {name: getattr(owner, leaf) for name, (owner, leaf) in module._places.items()}
    errors = {}
    for step in steps:
        outputs = tuple(name for name in step.node.outputs if name)
        body = Body((), outputs, module._body.literals, (replace(step, last=()),))
        with torch.no_grad():
            found = run(body, values, training=False)
        pairs = zip(outputs, found, strict=True)
        errors[f"{step.node.op} {step.node.name}"] = max(
            _error(known[name], value.detach().numpy()) for name, value in pairs
        )
    return errors


def _error(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return np.inf
    if expected.dtype.kind != "f":
        return float(np.mean(expected != found)) if expected.size else 0.0
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    difference = np.where(same, 0.0, np.abs(np.nan_to_num(expected) - np.nan_to_num(found)))
    finite = expected[np.isfinite(expected)]
    return float(difference.max(initial=0) / max(np.abs(finite).max(initial=0), 1e-30))
