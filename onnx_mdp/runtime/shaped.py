"""Sessions of runtimes that compile for concrete input shapes, as such runtimes are deployed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from onnx_mdp.runtime.base import Feeds, Session

Compiled = TypeVar("Compiled")
Shapes = Mapping[str, tuple[int, ...]]
_KEPT = 4  # compiled models of one session: the batch sizes that calibration and proof alternate between


class ShapedSession(Session, Generic[Compiled]):
    """Compiles a model for the shapes it is run with, and keeps the last few results."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[tuple[str, tuple[int, ...]], ...], Compiled] = {}

    @abstractmethod
    def compile(self, shapes: Shapes) -> Compiled:
        """The model at these input shapes.

        Raises:
            RuntimeBackendError: the runtime does not compile it.
        """

    def compiled(self, feeds: Feeds) -> Compiled:
        """The model compiled for the inputs' shapes."""
        return self.at({name: value.shape for name, value in feeds.items()})

    def at(self, shapes: Shapes) -> Compiled:
        """The model compiled for these shapes, kept from an earlier call if there was one."""
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        if key not in self._compiled:
            made = self.compile(shapes)
            for oldest in list(self._compiled)[: 1 - _KEPT]:
                del self._compiled[oldest]
            self._compiled[key] = made
        return self._compiled[key]
