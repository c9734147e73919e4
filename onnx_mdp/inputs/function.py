"""Calibration inputs from the user's Python function: called once, its feeds kept in temporary files.

What a pass reads is therefore the same each time, however random the function is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from onnx_mdp.errors import InputError
from onnx_mdp.inputs.base import Array, Column, InputSpec
from onnx_mdp.inputs.stored import Spool
from onnx_mdp.inputs.user_code import imported, user_code

Function = Callable[[], Iterable[Any]]


def read_function(
    source: str | Function, specs: tuple[InputSpec, ...], samples: int
) -> tuple[dict[str, Column], int, bool]:
    """The first samples that a function yields, their number, and whether there are no more.

    Args:
        source: a function without arguments, or `module:function`, imported with the working directory on the path.
            Each item it yields is a mapping from input names to arrays, or an array for a model with one input; an
            array holds one sample, or several along a first axis more.
        specs: the model's inputs.
        samples: how many are taken at most.

    Raises:
        InputError: it cannot be imported, raises, or what it yields does not fit the model.
    """
    name = source if isinstance(source, str) else getattr(source, "__qualname__", type(source).__name__)
    spools = {spec.name: Spool(spec.dtype) for spec in specs}
    count, ended = 0, False
    with user_code(f"--inputs {name}", InputError):
        named = imported("--inputs", source, "yields feeds", InputError) if isinstance(source, str) else source
        for item in named():
            feed = _feed(item, specs, f"--inputs {name}: sample {count}")
            for key, array in feed.items():
                spools[key].append(array[: samples - count])
            count = next(iter(spools.values())).count
            if count == samples:
                break
        else:
            ended = True
    if not count:
        raise InputError(f"--inputs {name}: yields nothing; yield one sample or a batch at a time")
    return {key: spool.column() for key, spool in spools.items()}, count, ended


def _feed(item: Any, specs: tuple[InputSpec, ...], place: str) -> dict[str, Array]:
    """What the function yielded, with a first axis of samples."""
    if not isinstance(item, Mapping):
        if len(specs) > 1:
            raise InputError(f"{place}: one {type(item).__name__} for inputs {[s.name for s in specs]}; yield a dict")
        item = {specs[0].name: item}
    if set(item) != {spec.name for spec in specs}:
        raise InputError(
            f"{place}: yields {', '.join(map(str, item))}; the inputs are {', '.join(s.name for s in specs)}"
        )
    feed = {spec.name: _batched(np.asarray(item[spec.name]), spec, place) for spec in specs}
    counts = {name: len(array) for name, array in feed.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise InputError(f"{place}: needs one number of samples for all inputs, above 0: {counts}")
    return feed


def _batched(array: Array, spec: InputSpec, place: str) -> Array:
    batched = array[None] if array.ndim == len(spec.sample) else array
    if array.dtype.kind != spec.dtype.kind:
        raise InputError(f"{place}: {spec.name!r} is {array.dtype}, the model takes {spec.dtype}: convert it")
    if not spec.fits(batched.shape[1:]):
        shown = "x".join(map(str, array.shape)) or "a number"
        raise InputError(
            f"{place}: {spec.name!r} is {shown}, the model takes {spec.shown()}: yield a sample or a batch"
        )
    return batched
