"""What each operator does to axes: one line of text an operator, and nothing else reads operators' meaning."""

from onnx_mdp.rules import attention, fused, index, join, linear, move, pointwise, statistic  # noqa: F401 (each registers its rules)
from onnx_mdp.rules.registry import Refusal, View, line_of, registered, text_of

__all__ = ["Refusal", "View", "line_of", "registered", "text_of"]
