"""The order of the stages. Only this package knows it."""

from onnx_mdp.pipeline.apply import apply
from onnx_mdp.pipeline.explain import explain
from onnx_mdp.pipeline.inspect import inspect
from onnx_mdp.pipeline.pareto import ParetoResult, pareto
from onnx_mdp.pipeline.profile import profile
from onnx_mdp.pipeline.prune import PruneResult, prune

__all__ = ["ParetoResult", "PruneResult", "apply", "explain", "inspect", "pareto", "profile", "prune"]
