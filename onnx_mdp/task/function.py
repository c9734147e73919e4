"""Accuracy by a function of the user, which is given the path of a model and returns a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import SupportsFloat

from onnx_mdp.errors import EvaluationError, OptionError
from onnx_mdp.graph.save import write_bytes
from onnx_mdp.graph.temporary import temporary_folder
from onnx_mdp.inputs.user_code import imported, is_reference, user_code

EvalLike = str | Callable[[str], SupportsFloat]


@dataclass(frozen=True, eq=False)
class ByFunction:
    """Calls `module:function`, or a function, with the path of an .onnx file; what it returns is better if higher."""

    source: EvalLike
    inputs: None = None
    held_out: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.source, str) and not is_reference(self.source):
            raise OptionError(f"--eval {self.source}: not of the form module:function, such as mytask:accuracy")

    @property
    def metric(self) -> str:
        """The function's name."""
        if isinstance(self.source, str):
            return self.source
        return str(getattr(self.source, "__qualname__", type(self.source).__name__))

    def accuracy(self, model: str | bytes) -> float:
        """What the function returns for a model.

        Raises:
            EvaluationError: it cannot be imported, raises, or returns no finite number.
        """
        place = f"--eval {self.metric}"
        with _in_file(model) as path, user_code(place, EvaluationError):
            function = self.source
            if isinstance(function, str):
                function = imported("--eval", function, "takes a path and returns a number", EvaluationError)
            found = function(path)
        try:
            value = float(found)
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"{place}: returns a {type(found).__name__}; return one number") from error
        if not math.isfinite(value):
            raise EvaluationError(f"{place}: returns {value}; return a finite number, higher where better")
        return value


@contextmanager
def _in_file(model: str | bytes) -> Iterator[str]:
    if isinstance(model, str):
        yield model
        return
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        write_bytes(path, model)
        yield str(path)
