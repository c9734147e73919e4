"""Prune exported ONNX models to a latency budget, without training.

    import onnx_mdp
    result = onnx_mdp.prune("model.onnx", latency="70%", inputs="calibration.npz")
    result.model, result.plan, result.report

Importing the package loads neither a runtime nor a solver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_mdp.pipeline.apply import apply
    from onnx_mdp.pipeline.explain import explain
    from onnx_mdp.pipeline.finetune import FinetuneResult, finetune
    from onnx_mdp.pipeline.inspect import inspect
    from onnx_mdp.pipeline.pareto import ParetoResult, pareto
    from onnx_mdp.pipeline.profile import profile
    from onnx_mdp.pipeline.prune import PruneResult, prune

__all__ = [
    "FinetuneResult",
    "ParetoResult",
    "PruneResult",
    "__version__",
    "apply",
    "explain",
    "finetune",
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
