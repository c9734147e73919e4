"""Prune exported ONNX models to a latency budget, without training.

    import onnx_mdp
    result = onnx_mdp.prune("model.onnx", latency="70%", inputs="calibration.npz")
    result.model, result.plan, result.report

Importing the package loads neither a runtime nor a solver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_mdp.pipeline import ParetoResult, PruneResult, apply, explain, inspect, pareto, profile, prune

__all__ = [
    "ParetoResult",
    "PruneResult",
    "__version__",
    "apply",
    "explain",
    "inspect",
    "pareto",
    "profile",
    "prune",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from onnx_mdp import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
