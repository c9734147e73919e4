"""The operators, a family a file; importing this registers them all."""

from onnx_mdp.torch.operators import (
    control,
    index,
    join,
    linear,
    move,
    norm,
    pointwise,
    pool,
    reduce,
    sample,
)

__all__ = ["control", "index", "join", "linear", "move", "norm", "pointwise", "pool", "reduce", "sample"]
