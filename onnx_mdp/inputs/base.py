"""What every source of calibration inputs becomes: columns of samples, read a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.errors import InputError

Array = NDArray[Any]
_BATCH = 4


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: element type, sample shape (None where any size fits), and the batch if it is fixed."""

    name: str
    dtype: np.dtype[Any]
    sample: tuple[int | None, ...]
    batch: int | None

    def fits(self, sample: tuple[int, ...]) -> bool:
        """Whether the model takes samples of this shape."""
        same_rank = len(sample) == len(self.sample)
        return same_rank and all(mine in (None, other) for mine, other in zip(self.sample, sample, strict=True))

    def shown(self) -> str:
        """The shape as messages show it."""
        return "x".join(["N", *("?" if size is None else str(size) for size in self.sample)])


class Column(Protocol):
    """The samples of one input, along the first axis; an array in memory is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, then the shape of one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> Array:
        """The samples of these numbers, in memory."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples for every input of a model, of which only those of one run are in memory at a time.

    Every pass sees the same samples in the same order. Where the model fixes the batch, as many samples as do not
    fill a last one are left out.

    Attributes:
        specs: the model's inputs.
        columns: the samples of each, all of the same number.
        rows: which samples of the columns are these inputs, in order.
        labels: class of each of these samples, aligned with them; None where nobody gave any.
        notes: what the user should know about how they were read.
    """

    specs: tuple[InputSpec, ...]
    columns: Mapping[str, Column]
    rows: NDArray[np.int64]
    labels: Array | None = None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.rows)

    @property
    def fixed_batch(self) -> int | None:
        """Samples in one run, if the model fixes that."""
        return next((spec.batch for spec in self.specs if spec.batch), None)

    @property
    def batch(self) -> int:
        """Samples in one run: what the model fixes, else a few."""
        return self.fixed_batch or max(1, min(_BATCH, self.count))

    @property
    def steps(self) -> int:
        """Runs of `batch` samples that it takes to see every sample."""
        return math.ceil(self.count / self.batch)

    @property
    def sample_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one sample of each input."""
        return {name: column.shape[1:] for name, column in self.columns.items()}

    def batches(self, batch: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds that together hold every sample once, in the same order each time.

        Args:
            batch: samples in one feed, where the model leaves that free; `self.batch` by default.
        """
        size = self.fixed_batch or batch or self.batch
        for start in range(0, self.count, size):
            yield self._read(self.rows[start : start + size])

    def first(self, count: int = 1) -> dict[str, Array]:
        """The first samples, as one feed.

        Raises:
            InputError: there are fewer.
        """
        if count > self.count:
            raise InputError(
                f"--inputs holds {self.count} samples, one run takes {count}: give more, or change --shape"
            )
        return self._read(self.rows[:count])

    def take(self, start: int, stop: int) -> Inputs:
        """Samples `start` to `stop`, with their labels; whole batches of them where the model fixes the batch."""
        rows = self.rows[start:stop]
        rows = rows[: len(rows) - len(rows) % (self.fixed_batch or 1)]
        labels = None if self.labels is None else self.labels[start:stop][: len(rows)]
        return replace(self, rows=rows, labels=labels)

    def pick(self, places: NDArray[np.int64]) -> Inputs:
        """The samples at these places, in that order, with their labels."""
        labels = None if self.labels is None else self.labels[places]
        return replace(self, rows=self.rows[places], labels=labels)

    def _read(self, rows: NDArray[np.int64]) -> dict[str, Array]:
        feed = {}
        for spec in self.specs:
            values = self.columns[spec.name][rows].astype(spec.dtype, copy=False)
            if spec.dtype.kind == "f" and np.isnan(values).any():
                raise InputError(f"--inputs {spec.name!r}: NaN in samples {rows.min()} to {rows.max()}; leave them out")
            feed[spec.name] = np.ascontiguousarray(values)
        return feed
