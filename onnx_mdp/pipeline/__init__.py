"""The order of the stages. Only this package knows it."""

from onnx_mdp.pipeline.apply import apply, approximates
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
    "apply",
    "approximates",
    "explain",
    "finetune",
    "inspect",
    "pareto",
    "profile",
    "prune",
]
