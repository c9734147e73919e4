"""What each operator computes in PyTorch, a family a file; importing this registers them all."""

from onnx_mdp.torch.operators import (  # noqa: F401 (each registers its operators)
    attention,
    control,
    detect,
    index,
    join,
    linear,
    move,
    norm,
    pointwise,
    pool,
    quantized,
    recurrent,
    reduce,
    sample,
)
from onnx_mdp.torch.registry import Call, Operator, find_operator, registered

__all__ = ["Call", "Operator", "find_operator", "registered"]
