"""How far a result is from the dense model where its normalizations lost units, which no proof can tell."""

from __future__ import annotations

from typing import Any

from onnx_mdp.graph.external import Loadable
from onnx_mdp.groups.find import NORMALIZED
from onnx_mdp.pipeline.case import Case
from onnx_mdp.pipeline.stages import seeded_inputs
from onnx_mdp.recover.recover import Recovery, distance
from onnx_mdp.rewrite.plan import Plan
from onnx_mdp.runtime.registry import prover

_SAMPLES = 32  # seeded inputs, where there are no others


def approximation_fact(case: Case, plan: Plan, model: Loadable, recovery: Recovery | None, seed: int) -> dict[str, Any]:
    """The groups with statistics over them that were cut, and how far the outputs moved; empty where none was cut.

    On held-out inputs, on those that the result was chosen by where none were held out, else on seeded noise.
    """
    widths = plan.widths()
    cut = [g.name for g in case.analysis.groups if g.kind == NORMALIZED and widths.get(g.name, g.units) < g.units]
    if not cut:
        return {}
    if recovery is not None:
        error = min(recovery.before, recovery.after)
        return _fact(cut, error, recovery.unit, recovery.inputs, "held-out")
    network = case.analysis.network
    inputs, which = case.held or case.fit, "held-out" if case.held else "calibration"
    if inputs is None:
        inputs, which = seeded_inputs(network, _SAMPLES, seed), "seeded"
    error, unit = distance(network.model, model, inputs, prover(case.runtime))
    return _fact(cut, error, unit, inputs.count, which)


def _fact(groups: list[str], error: float, unit: str, count: int, which: str) -> dict[str, Any]:
    return {"groups": groups, "error": error, "unit": unit, "inputs": count, "which": which}
