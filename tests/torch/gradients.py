"""Which weights a gradient must reach, found without the module: by what ONNX Runtime computes when they are changed.

An output depends on a weight if some change of the weight, of any size, changes it. A gradient may still be zero where
the dependence is by selection alone (an index, a comparison) or where everything it passes is flat at the inputs (a
dead Relu): so a weight counts where a small change of it, in a random direction, moves an output by more than rounding
does, and in proportion: a change half as large moves it half as far. Where boxes are selected, a small change may
select others, which differences cannot tell from a smooth one: there nothing is asked of what no gradient reaches.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper

from onnx_mdp.torch import OnnxModule

_STEP = 1e-2  # of a weight's own norm


def check_gradients(model: onnx.ModelProto, module: OnnxModule, feeds: dict[str, np.ndarray]) -> set[str]:
    """Assert that a gradient reaches every weight whose change moves the outputs smoothly; returns those it reaches."""
    module.zero_grad()
    outputs = module({name: torch.from_numpy(value) for name, value in feeds.items()})
    generator = torch.Generator().manual_seed(0)
    smooth = [v for v in outputs.values() if v.requires_grad]
    sum((v * torch.randn(v.shape, generator=generator)).sum() for v in smooth).backward()
    parameters = dict(module.named_parameters())
    names = {name: parameters[key] for name, key in module.keys.items() if key in parameters}
    reached = {name for name, p in names.items() if p.grad is not None and bool(p.grad.any())}
    missed = [name for name in names if name not in reached]
    selects = b"NonMaxSuppression" in model.SerializeToString()  # of some branch, maybe
    felt = [name for name in missed if not selects and _moves(model, name, feeds)]
    assert not felt
    return reached


def _moves(model: onnx.ModelProto, name: str, feeds: dict[str, np.ndarray]) -> bool:
    base, half, whole = (_outputs(model, name, step, feeds) for step in (0.0, _STEP / 2, _STEP))
    for a, b, c in zip(base, half, whole, strict=True):
        if a.dtype.kind != "f" or not a.shape == b.shape == c.shape:
            continue
        first, second = np.abs(b - a).max(initial=0), np.abs(c - a).max(initial=0)
        if second > 1e-5 * np.abs(a).max(initial=0) and 0.4 < first / second < 0.6:
            return True
    return False


def _outputs(model: onnx.ModelProto, name: str, step: float, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = {t.name: t for t in changed.graph.initializer}
    stored |= {n.output[0]: n.attribute[0].t for n in changed.graph.node if n.op_type == "Constant"}
    values = numpy_helper.to_array(stored[name])
    noise = np.random.default_rng(0).standard_normal(values.shape)
    moved = values + step * np.abs(values).mean() * noise
    stored[name].CopyFrom(numpy_helper.from_array(moved.astype(values.dtype), name))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found
