"""How an image becomes what a model was trained on: resize, crop, normalize, order channels and axes.

`--preprocess` is the name of a preset, fields as `key=value`, or a preset and fields that differ, separated by commas.
The fields are those of `Preprocess`; sizes are written `224` or `224x160` (height, then width), and values of red,
green and blue `0.485/0.456/0.406`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from onnx_mdp.errors import OptionError
from onnx_mdp.inputs.base import Array

_EXAMPLE = "write a preset, fields, or both, such as imagenet,size=192,layout=nhwc"


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image, in this order.

    Attributes:
        resize: length of the shorter side, as one number; or height and width, whatever the proportions were. Without
            it, the image is resized to just cover `size`.
        size: height and width of the crop from the center; an image that is smaller is enlarged to cover it.
        filter: how a resize interpolates.
        range: what the brightest pixel is: 1 or 255.
        mean: subtracted, in units of `range`; for red, green and blue whatever `channels` says.
        std: divided by then; likewise.
        channels: order of the channels, or one of gray.
        layout: channels first (`nchw`) or last (`nhwc`).
    """

    resize: tuple[int, ...] | None = None
    size: tuple[int, ...] | None = None
    filter: str = "bilinear"
    range: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: str = "rgb"
    layout: str = "nchw"

    @property
    def is_raw(self) -> bool:
        """Whether pixels stay the integers that they are."""
        return self.range == 255 and not any(self.mean) and set(self.std) == {1.0}

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after the resize."""
        sides: tuple[float, float] = (height, width)
        if self.resize:
            short = min(height, width)
            exact = len(self.resize) == 2
            sides = self.resize[0], self.resize[-1]
            if not exact:
                sides = int(self.resize[0] * height / short), int(self.resize[0] * width / short)
        if not self.size:
            return int(sides[0]), int(sides[1])
        crop = self.size[0], self.size[-1]
        cover = max(crop[0] / sides[0], crop[1] / sides[1])
        scale = max(cover, 1.0) if self.resize else cover
        return max(crop[0], round(sides[0] * scale)), max(crop[1], round(sides[1] * scale))

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns that are kept of a resized image."""
        size = (self.size[0], self.size[-1]) if self.size else (height, width)
        top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
        return slice(top, top + size[0]), slice(left, left + size[1])

    def sample_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of one image of this height and width, in the asked layout."""
        depth = 1 if self.channels == "gray" else 3
        return (depth, height, width) if self.layout == "nchw" else (height, width, depth)

    def normalized(self, pixels: Array) -> Array:
        """Images of 0 to 255, red first and channels last, as the model takes them."""
        mean, std = (np.array(numbers, np.float32) for numbers in (self.mean, self.std))
        values: Array = (pixels.astype(np.float32) * np.float32(self.range / 255) - mean) / std
        if self.channels == "bgr":
            values = values[..., ::-1]
        return np.moveaxis(values, -1, -3) if self.layout == "nchw" else values


_IMAGENET = Preprocess((256,), (224,), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CLIP = Preprocess(
    (224,),
    (224,),
    "bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
PRESETS = {
    "imagenet": _IMAGENET,
    "inception": Preprocess((342,), (299,), mean=(0.5,) * 3, std=(0.5,) * 3),
    "vit": Preprocess((248,), (224,), "bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
    "clip": _CLIP,
    "caffe": Preprocess((256,), (224,), range=255.0, mean=(123.68, 116.779, 103.939), channels="bgr"),
    "cifar": Preprocess((32,), (32,), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
    "mnist": Preprocess((28,), (28,), mean=(0.1307,), std=(0.3081,), channels="gray"),
    "unit": Preprocess(),
    "raw": Preprocess(range=255.0),
}


def parse_preprocess(text: str) -> Preprocess:
    """The preprocessing that a text describes.

    A size other than the preset's changes its resize in proportion, unless that is given too.

    Raises:
        OptionError: no such preset or field, or a value that its field does not take.
    """
    first, *rest = (part.strip() for part in text.split(","))
    base = PRESETS.get(first)
    if base is None and "=" not in first:
        raise OptionError(f"--preprocess {text}: no preset {first!r}; there are {', '.join(PRESETS)}; {_EXAMPLE}")
    found = dict(_field(part, text) for part in (rest if base else [first, *rest]))
    base = base or Preprocess()
    if "size" in found and "resize" not in found and base.resize and base.size:
        found["resize"] = (round(base.resize[0] * min(found["size"]) / base.size[0]),)
    return _checked(replace(base, **found), text)


def _field(part: str, text: str) -> tuple[str, Any]:
    name, _, value = part.partition("=")
    names = [field.name for field in fields(Preprocess)]
    if name not in names:
        raise OptionError(f"--preprocess {text}: no field {name!r}; there are {', '.join(names)}; {_EXAMPLE}")
    form, read = _FORMS[name]
    try:
        return name, read(value)
    except (ValueError, KeyError) as error:
        raise OptionError(f"--preprocess {text}: {name}={value} is not {form}") from error


def _sizes(value: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", value):
        raise ValueError(value)
    return tuple(int(side) for side in value.split("x"))


def _numbers(value: str) -> tuple[float, ...]:
    found = tuple(float(number) for number in value.split("/"))
    if len(found) not in (1, 3) or not np.isfinite(found).all():
        raise ValueError(value)
    return found


def _positive(value: str) -> tuple[float, ...]:
    found = _numbers(value)
    if min(found) <= 0:
        raise ValueError(value)
    return found


def _one_of(*choices: str) -> tuple[str, Callable[[str], str]]:
    return " or ".join(choices), dict(zip(choices, choices, strict=True)).__getitem__


_FORMS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "resize": ("a size such as 256 or 256x192", _sizes),
    "size": ("a size such as 224 or 224x160", _sizes),
    "filter": _one_of("bilinear", "bicubic", "lanczos", "box", "nearest"),
    "range": ("1 or 255", {"1": 1.0, "255": 255.0}.__getitem__),
    "mean": ("one number or three such as 0.485/0.456/0.406", _numbers),
    "std": ("one number above 0 or three such as 0.229/0.224/0.225", _positive),
    "channels": _one_of("rgb", "bgr", "gray"),
    "layout": _one_of("nchw", "nhwc"),
}


def _checked(preprocess: Preprocess, text: str) -> Preprocess:
    values = max(len(preprocess.mean), len(preprocess.std))
    if preprocess.channels == "gray" and values > 1:
        raise OptionError(f"--preprocess {text}: gray has one mean and one std: add mean=0.45,std=0.25 or the like")
    return preprocess
