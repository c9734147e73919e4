"""The operators, a family a file; importing this registers them all."""

from onnx_mdp.torch.operators import (  # noqa: F401  # noqa: F401
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
