"""Measures pieces of models and keeps what it measures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping

import onnx

from onnx_mdp.errors import RuntimeBackendError
from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.weights import model_bytes
from onnx_mdp.latency.lut import Entry, LatencyTable, now, region_key
from onnx_mdp.runtime.base import Array, Runtime, Session
from onnx_mdp.runtime.timing import interleaved

PASSES = 5
SECONDS = 0.003  # of each pass of each entry
_CHUNK_ENTRIES = 24
_CHUNK_BYTES = 32 << 20

Model = tuple[onnx.ModelProto, Mapping[str, Array]]
Build = Callable[[], Model]


class Meter:
    """Times models on a runtime, through a latency table: what is in the table is never timed again."""

    def __init__(self, runtime: Runtime, table: LatencyTable) -> None:
        self.runtime = runtime
        self.table = table
        self.measured = 0
        self.failed: dict[str, str] = {}

    def latency(self, text: str) -> float | None:
        """Milliseconds of a region by its canonical text; None if it is not measured."""
        entry = self.table.get(region_key(text))
        return entry.ms if entry else None

    def fill(self, requests: Mapping[str, Build], progress: Callable[[int], None] = lambda done: None) -> None:
        """Measure the requests that are missing, in chunks that are stored as soon as they are done.

        `progress` is told how many of the requests are in the table.
        """
        missing = {text: build for text, build in requests.items() if self._is_missing(text)}
        done = len(requests) - len(missing)
        progress(done)
        for chunk in self._chunks(missing):
            self._measure(chunk)
            done += len(chunk)
            chunk.clear()  # of its sessions, before the next are built
            progress(done)

    def _is_missing(self, text: str) -> bool:
        return self.table.get(region_key(text)) is None and text not in self.failed

    def _chunks(self, requests: Mapping[str, Build]) -> Iterator[dict[str, Session]]:
        chunk: dict[str, Session] = {}
        weight = 0
        for text, build in requests.items():
            model, feeds = build()
            size = model_bytes(model) + sum(array.nbytes for array in feeds.values())
            if chunk and (weight + size > _CHUNK_BYTES or len(chunk) >= _CHUNK_ENTRIES):
                yield chunk
                chunk, weight = {}, 0
            try:
                with loadable(model) as reference:
                    session = self.runtime.open(reference)
                session.bind(feeds)
            except RuntimeBackendError as error:
                self.failed[text] = str(error)
                continue
            chunk[text] = session
            weight += size
        if chunk:
            yield chunk

    def _measure(self, sessions: Mapping[str, Session]) -> None:
        timings = interleaved(list(sessions.values()), PASSES, SECONDS)
        stamp = now()
        self.table.put(
            Entry(
                device=self.table.device,
                key=region_key(text),
                ms=busy if self.runtime.trusts_busy else wall,
                wall_ms=wall,
                spread=spread,
                count=PASSES,
                measured=stamp,
                region=text,
            )
            for text, (wall, busy, spread) in zip(sessions, map(_summary, timings), strict=True)
        )
        self.measured += len(sessions)


def _summary(samples: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Median wall and busy milliseconds, and the relative spread of the busy ones."""
    walls, busies = zip(*samples, strict=True)
    busy = statistics.median(busies)
    return statistics.median(walls) / 1e6, busy / 1e6, (max(busies) - min(busies)) / busy if busy else 0.0
