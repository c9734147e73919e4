"""The padding of windows that slide over an image, in ONNX's forms and in PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_mdp.torch.registry import Call

Ints = Sequence[int]


def pads_of(call: Call, sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints) -> list[int]:
    """The zeros before every axis and then those after every axis, also where they follow from the sizes."""
    mode = call.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        return list(call.attr("pads", [0] * 2 * len(sizes))) if mode == "NOTSET" else [0] * 2 * len(sizes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    outputs = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
    total = [max((o - 1) * s + r - n, 0) for o, s, r, n in zip(outputs, strides, reach, sizes, strict=True)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *more] if mode == "SAME_UPPER" else [*more, *less]


def split_pads(pads: Ints) -> tuple[list[int], list[int]]:
    """What is equal on both sides of each axis, and the rest as `torch.nn.functional.pad` takes it."""
    rank = len(pads) // 2
    around = [max(min(pads[i], pads[i + rank]), 0) for i in range(rank)]
    rest = [pads[i + side * rank] - around[i] for i in reversed(range(rank)) for side in (0, 1)]
    return around, rest


def ceiled(sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints) -> list[int]:
    """The pads with as much more after each axis as the last window of a pooling with `ceil_mode` reaches beyond.

    No window begins in what is padded after an axis.
    """
    rank = len(sizes)
    result = list(pads)
    for i, (n, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        reach = (k - 1) * d + 1
        count = -(-(n + pads[i] + pads[i + rank] - reach) // s) + 1
        count -= (count - 1) * s >= n + pads[i]
        result[i + rank] = max((count - 1) * s + reach - n - pads[i], pads[i + rank])
    return result
