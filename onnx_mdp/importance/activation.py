"""Activation: mean square of what each unit contributes to the layers that read it, over calibration inputs.

E[x_j^2] * |W_j|^2, as in Wanda (Sun et al., 2024) and FLAP (An et al., 2024), relative to the layer's total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from onnx_mdp.groups.blocks import Block
from onnx_mdp.groups.couple import Contraction
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.base import Scorer, Vector, unit_energy, weight_energy
from onnx_mdp.importance.statistics import AxisSquares, Moments, share_request


class ActivationScorer(Scorer):
    """A unit is worth the energy it brings into the sums it enters; a block its branch's energy in x + f(x)."""

    name: ClassVar[str] = "activation"
    needs_inputs: ClassVar[bool] = True

    def __init__(self, analysis: Analysis, moments: Moments) -> None:
        self._analysis = analysis
        self._moments = moments

    def energy(self, contraction: Contraction, group: Group) -> Vector:
        """Product of the operands' energies at each unit."""
        return unit_energy(self._analysis, group, contraction, self._energies(contraction))

    def share(self, block: Block) -> float:
        """Mean of |f(x)|^2 / (|x|^2 + |f(x)|^2) over positions."""
        return float(self._moments.mean(share_request(self._analysis, block))[0])

    def _energies(self, contraction: Contraction) -> Mapping[tuple[str, int], Vector]:
        weights = self._analysis.network.weights
        return {
            (tensor, axis): weight_energy(weights[tensor], axis)
            if tensor in weights
            else self._moments.mean(AxisSquares(tensor, axis))
            for tensor, axis in contraction.operands
        }
