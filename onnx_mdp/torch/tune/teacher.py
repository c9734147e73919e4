"""What the dense model computes: of every input once, kept in a temporary file, or anew each time inputs change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from onnx_mdp.errors import ModelError
from onnx_mdp.inputs.base import Array, Column, Inputs
from onnx_mdp.inputs.stored import Spool
from onnx_mdp.runtime.base import Session
from onnx_mdp.torch.module import OnnxModule

_RUN = 64  # inputs at a time, where the model leaves that free


def learnable(session: Session, inputs: Inputs, names: Sequence[str]) -> list[str]:
    """The outputs that are floats with a row for each input.

    Raises:
        ModelError: there is none.
    """
    feeds = inputs.first(inputs.batch)
    found = dict(zip(names, session.run(feeds, names), strict=True))
    kept = [name for name, values in found.items() if values.dtype.kind == "f" and values.shape[:1] == (inputs.batch,)]
    if not kept:
        shown = ", ".join(f"{name} {values.dtype} {'x'.join(map(str, values.shape))}" for name, values in found.items())
        raise ModelError(f"no output is of floats with a row for each of {inputs.batch} inputs: {shown}")
    return kept


def keep_outputs(session: Session, inputs: Inputs, names: Sequence[str]) -> dict[str, Column]:
    """What a model computes of all inputs, in their order, in temporary files."""
    spools: dict[str, Spool] = {}
    for feeds in inputs.batches(_RUN):
        for name, values in zip(names, session.run(feeds, list(names)), strict=True):
            spools.setdefault(name, Spool(values.dtype)).append(values)
    return {name: spool.column() for name, spool in spools.items()}


def takes_any_batch(module: OnnxModule, inputs: Inputs) -> bool:
    """Whether a module computes the same of two batches at once, which a fixed batch in the graph may only declare."""
    size = inputs.batch
    if inputs.count < 2 * size:
        return False
    with torch.no_grad():
        both = tensors(inputs.first(2 * size), next(module.parameters()).device)
        halves = [module({name: values[i : i + size] for name, values in both.items()}) for i in (0, size)]
        try:
            found = module(both)
        except (RuntimeError, ValueError, IndexError):  # whatever an operator makes of sizes that do not fit
            return False
    pairs = [(found[name], torch.cat([half[name] for half in halves])) for name in module.outputs]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs)


def tensors(feeds: Mapping[str, Array], device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Arrays as tensors on a device."""
    return {name: torch.from_numpy(values).to(device) for name, values in feeds.items()}


def with_free_batch(inputs: Inputs) -> Inputs:
    """The same inputs, for what takes any number of them at once."""
    return replace(inputs, specs=tuple(replace(spec, batch=None) for spec in inputs.specs))


@dataclass(frozen=True, eq=False)
class Kept:
    """Looks up what was computed once.

    Attributes:
        columns: what the dense model computes of every input, by name.
    """

    columns: Mapping[str, Column]

    def targets(self, feeds: Mapping[str, torch.Tensor], places: Array) -> list[torch.Tensor]:
        """What is to be learned of the inputs at these places."""
        device = next(iter(feeds.values())).device
        return [torch.from_numpy(np.asarray(column[places])).to(device) for column in self.columns.values()]


@dataclass(frozen=True, eq=False)
class Live:
    """Runs the dense model.

    Attributes:
        module: it, in evaluation mode, on the device.
    """

    module: Any

    def targets(self, feeds: Mapping[str, torch.Tensor], places: Array) -> list[torch.Tensor]:
        """What is to be learned of these inputs."""
        with torch.no_grad():
            return list(self.module(feeds).values())
