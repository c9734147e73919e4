"""Taylor: how much a loss would change to first order if a unit were scaled down, by gradients. Needs PyTorch.

A unit's value is |sum of w dL/dw| over everything that makes the unit: the weights and biases of all layers whose
outputs are tied in its group, or the scale and shift alone where a BatchNormalization follows the layer (MDP,
2025; Molchanov et al., Importance Estimation for Neural Network Pruning, 2019). Coupled layers are summed before the
absolute value, batches after it: over many samples the gradient of a trained model is zero. What reads the units is
left out, as it would count everything twice. The losses are those of `onnx_mdp.torch.gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import ClassVar

import numpy as np

from onnx_mdp.axes.terms import fold, leaves
from onnx_mdp.errors import ModelError, OptionError
from onnx_mdp.groups.couple import Contraction
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.activation import ActivationScorer
from onnx_mdp.importance.base import Vector
from onnx_mdp.importance.statistics import Moments
from onnx_mdp.inputs.base import Array, Inputs

Members = tuple[tuple[str, int], ...]


def check_torch() -> None:
    """Fail early where there are no gradients; PyTorch is not imported.

    Raises:
        OptionError: it is not installed.
    """
    if find_spec("torch") is None:
        raise OptionError(
            "--importance taylor: PyTorch is not installed: pip install 'onnx-mdp[torch]', or use reconstruction"
        )


class TaylorScorer(ActivationScorer):
    """A unit is worth the first-order change of a loss; a block its branch's energy in x + f(x)."""

    name: ClassVar[str] = "taylor"

    def __init__(
        self, analysis: Analysis, moments: Moments, inputs: Inputs, progress: Callable[[int, int], None]
    ) -> None:
        super().__init__(analysis, moments)
        self._units = _changes(analysis, inputs, progress)

    def energy(self, contraction: Contraction, group: Group) -> Vector:
        """The same for every contraction of the group; that of `activation` where nothing of it has a gradient."""
        found = self._units.get(group.name)
        return super().energy(contraction, group) if found is None else found


def _changes(analysis: Analysis, inputs: Inputs, progress: Callable[[int, int], None]) -> dict[str, Vector]:
    """For each group the mean over batches of what its units would change."""
    from onnx_mdp.torch.gradients import products

    makers = {group.name: _makers(analysis, group) for group in analysis.groups}
    found: dict[str, Vector] = {}
    try:
        for step, batch in enumerate(products(analysis.network.model, _batches(inputs))):
            for group in analysis.groups:
                sums = [
                    fold(analysis.coupling.axes[name][axis], group.factor, values)
                    for name, axis in makers[group.name]
                    if (values := batch.along(name, axis)) is not None
                ]
                if sums:
                    change = np.abs(np.sum(sums, axis=0)) / inputs.steps
                    found[group.name] = found.get(group.name, np.zeros(group.units)) + change
            progress(step + 1, inputs.steps)
    except ModelError as error:
        raise ModelError(f"--importance taylor: {error}; or use --importance reconstruction") from error
    return found


def _batches(inputs: Inputs) -> Iterator[tuple[dict[str, Array], Array | None]]:
    start = 0
    for feeds in inputs.batches():
        count = min(inputs.batch, inputs.count - start)
        yield feeds, None if inputs.labels is None else inputs.labels[start : start + count]
        start += count


def _makers(analysis: Analysis, group: Group) -> Members:
    """The members that make the units, but for layers before a BatchNormalization; all members if there are none."""
    network = analysis.network
    summed = {
        operand
        for contraction in analysis.coupling.contractions
        if group.factor in leaves(contraction.term)
        for operand in contraction.operands
    }
    making = [(name, axis) for name, axis in group.members if (name, axis) not in summed]

    def is_normalized(name: str) -> bool:
        outputs = [output for node in network.consumers.get(name, ()) for output in node.outputs[:1]]
        readers = [node for output in outputs for node in network.consumers.get(output, ())]
        return bool(readers) and all(n.op == "BatchNormalization" and n.inputs[0] in outputs for n in readers)

    return tuple(m for m in making if not is_normalized(m[0])) or group.members
