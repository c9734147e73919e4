"""Operators that sum over products with weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.torch.operators.window import pads_of, split_pads
from onnx_mdp.torch.registry import Call, operator

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_CONV_TRANSPOSE = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


@operator("Conv", weights=(1, 2))
def _conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.dim() - 2
    ones = [1] * rank
    strides, dilations = call.attr("strides", ones), call.attr("dilations", ones)
    pads = pads_of(call, x.shape[2:], w.shape[2:], strides, dilations)
    around, apart = split_pads(pads)
    if any(apart):
        x = functional.pad(x, apart)
    return _CONV[rank - 1](x, w, b, strides, around, dilations, call.attr("group", 1))


@operator("ConvTranspose", weights=(1, 2))
def _conv_transpose(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """The whole product, of which the pads are cut off; what an output padding adds beyond it is bias alone."""
    rank = w.dim() - 2
    ones = [1] * rank
    strides, dilations = call.attr("strides", ones), call.attr("dilations", ones)
    y = _CONV_TRANSPOSE[rank - 1](x, w, None, strides, 0, 0, call.attr("group", 1), dilations)
    more = call.attr("output_padding", [0] * rank)
    pads = _transposed_pads(call, x.shape[2:], y.shape[2:], strides, more)
    flat = [size for i in reversed(range(rank)) for size in (-pads[i], more[i] - pads[i + rank])]
    y = functional.pad(y, flat) if any(flat) else y
    return y if b is None else y + b.reshape(-1, *ones)


def _transposed_pads(
    call: Call, given: Sequence[int], whole: Sequence[int], strides: Sequence[int], more: Sequence[int]
) -> list[int]:
    mode = call.attr("auto_pad", "NOTSET")
    asked = call.attr("output_shape")
    if asked is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        return list(call.attr("pads", [0] * 2 * len(whole)))
    asked = [n * s for n, s in zip(given, strides, strict=True)] if asked is None else asked[-len(whole) :]
    total = [max(n + m - a, 0) for n, m, a in zip(whole, more, asked, strict=True)]
    less, rest = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *rest] if mode == "SAME_UPPER" else [*rest, *less]


@operator("Gemm", weights=(1, 2))
def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if call.attr("transA", 0) else a
    b = b.T if call.attr("transB", 0) else b
    product, alpha, beta = a @ b, call.attr("alpha", 1.0), call.attr("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


@operator("MatMul", weights=(0, 1))
def _matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Einsum")
def _einsum(call: Call, *inputs: Tensor) -> Tensor:
    return torch.einsum(call.attr("equation").replace(" ", ""), *inputs)


@operator("DFT", host=(1, 2))
def _dft(call: Call, x: Tensor, length: int | None = None, axis: int | None = None) -> Tensor:
    """The last axis holds real and imaginary parts, or real ones alone."""
    default = 1 if call.opset < 20 else -2
    axis = int(call.ints(axis, "axis", default)) % x.dim()
    values = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0].to(_complex(x.dtype))
    inverse = call.attr("inverse", 0)
    found = (torch.fft.ifft if inverse else torch.fft.fft)(values, n=length, dim=axis)
    if call.attr("onesided", 0):
        found = found.narrow(axis, 0, found.shape[axis] // 2 + 1)
    return torch.view_as_real(found)


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64


@operator("Col2Im", host=(1, 2))
def _col2im(call: Call, x: Tensor, image: Sequence[int], block: Sequence[int]) -> Tensor:
    rank = len(image)
    ones, none = [1] * rank, [0] * 2 * rank
    pads: Any = call.attr("pads", none)
    padded = [size + pads[i] + pads[i + rank] for i, size in enumerate(image)]
    y = functional.fold(x, padded, block, call.attr("dilations", ones), 0, call.attr("strides", ones))
    cut = [-size for i in reversed(range(rank)) for size in (pads[i], pads[i + rank])]
    return functional.pad(y, cut) if any(cut) else y
