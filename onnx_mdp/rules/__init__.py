"""What each operator does to axes: one line of text an operator, and nothing else reads operators' meaning."""

from onnx_mdp.rules import join, linear, move, pointwise, statistic
from onnx_mdp.rules.registry import Refusal, View, line_of, registered, text_of

__all__ = ["Refusal", "View", "join", "line_of", "linear", "move", "pointwise", "registered", "statistic", "text_of"]
