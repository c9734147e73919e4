"""Measures pieces of models and keeps what it measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import onnx

from onnx_mdp.engine.base import Asked, Engine, Failure, Timing
from onnx_mdp.engine.base import Model as Loaded
from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.weights import model_bytes
from onnx_mdp.latency.lut import CANARY, Entry, LatencyTable, now, region_key
from onnx_mdp.runtime.base import Array

Model = tuple[onnx.ModelProto, Mapping[str, Array]]
Build = Callable[[], Model]
Progress = Callable[[int, int], None]

_CHUNK_ENTRIES = 24
_CHUNK_BYTES = 32 << 20


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def sizes_text(feeds: Mapping[str, Array]) -> str:
    """The shapes of inputs as they stand in the canonical text of a whole model."""
    return ",".join(str(list(array.shape)) for array in feeds.values())


class Meter:
    """Times models on an engine, through a latency table: what is in the table is never timed again.

    Attributes:
        measured: entries measured by this meter; `reused` counts those asked for that the table had.
        failed: canonical text -> why it could not be measured.
        rough: entries measured by this meter that did not reach the precision asked for.
    """

    def __init__(self, engine: Engine, table: LatencyTable, precision: float = Asked.precision) -> None:
        self.engine = engine
        self.table = table
        self.asked = Asked(precision=precision, canary_ms=self._reference())
        self.measured = 0
        self.reused = 0
        self.rough = 0
        self.failed: dict[str, str] = {}
        self._asked: set[str] = set()

    def latency(self, text: str) -> float | None:
        """Milliseconds of a region by its canonical text; None if it is not measured or cannot be."""
        entry = self.entry(text)
        return entry.ms if entry else None

    def entry(self, text: str) -> Entry | None:
        """The row of a canonical text, unless it says that it could not be measured."""
        entry = self.table.get(region_key(text))
        return entry if entry and not entry.failed else None

    def fill(self, requests: Mapping[str, Build], progress: Progress = silent) -> None:
        """Measure the requests that are missing, in chunks that are stored as soon as they are done.

        `progress` is told how many of the requests are in the table, and how many there are.
        """
        missing = {text: build for text, build in requests.items() if self._is_missing(text)}
        done = len(requests) - len(missing)
        self.reused += len(requests.keys() - missing.keys() - self._asked)
        self._asked |= requests.keys()
        progress(done, len(requests))
        most = min(_CHUNK_ENTRIES, math.ceil(len(missing) / self.engine.width))
        for timings in self.engine.time_all(_loadable_chunks(missing, most), self.asked):
            self.store(timings)
            done += len(timings)
            progress(done, len(requests))

    def store(self, timings: Mapping[str, Timing | Failure]) -> None:
        """Keep measurements by canonical text."""
        stamp = now()
        self.table.put(self._entry(text, timing, stamp) for text, timing in timings.items())
        self.measured += len(timings)
        for text, timing in timings.items():
            if isinstance(timing, Failure):
                self.failed[text] = timing.reason
            elif timing.precision > self.asked.precision:
                self.rough += 1

    def _reference(self) -> float:
        """The canary's time when the table was begun: all its entries are comparable to that."""
        entry = self.table.get(region_key(CANARY))
        if entry is None:
            ms = self.engine.canary_ms()
            entry = Entry(self.table.device, region_key(CANARY), ms, ms, 0.0, 1, now(), CANARY)
            self.table.put([entry])
        return entry.ms

    def _is_missing(self, text: str) -> bool:
        entry = self.table.get(region_key(text))
        if entry and entry.failed:
            self.failed[text] = entry.failed
        return entry is None

    def _entry(self, text: str, timing: Timing | Failure, stamp: str) -> Entry:
        if isinstance(timing, Failure):
            return Entry(self.table.device, region_key(text), 0.0, 0.0, 0.0, 0, stamp, text, timing.reason)
        return Entry(
            device=self.table.device,
            key=region_key(text),
            ms=timing.ms,
            wall_ms=timing.wall_ms,
            spread=timing.precision,
            count=timing.count,
            measured=stamp,
            region=text,
        )


def _loadable_chunks(requests: Mapping[str, Build], most: int) -> Iterator[dict[str, Loaded]]:
    """Chunks as an engine takes them; what a chunk holds is dropped before the next is built."""
    for chunk in _chunks(requests, most):
        with ExitStack() as opened:
            yield {text: (opened.enter_context(loadable(model)), feeds) for text, (model, feeds) in chunk.items()}
        chunk.clear()


def _chunks(requests: Mapping[str, Build], most: int) -> Iterator[dict[str, Model]]:
    chunk: dict[str, Model] = {}
    weight = 0
    for text, build in requests.items():
        model, feeds = build()
        size = model_bytes(model) + sum(array.nbytes for array in feeds.values())
        if chunk and (weight + size > _CHUNK_BYTES or len(chunk) >= most):
            yield chunk
            chunk, weight = {}, 0
        chunk[text] = model, feeds
        weight += size
    if chunk:
        yield chunk
