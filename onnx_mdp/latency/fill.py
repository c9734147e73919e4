"""Two ways to fill latency tables: regions timed on their own, or within whole models."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import onnx

from onnx_mdp.axes.terms import Factor
from onnx_mdp.engine.base import Timing
from onnx_mdp.errors import RuntimeBackendError
from onnx_mdp.latency.attribute import Attribution
from onnx_mdp.latency.measure import Meter, Progress, silent
from onnx_mdp.latency.tables import RegionTable
from onnx_mdp.runtime.base import Feeds

Widths = Mapping[Factor, int]
Entry = tuple[RegionTable, tuple[int, ...]]
BuildWhole = Callable[[Widths], onnx.ModelProto]

_RUNS = 12
_ISOLATED_WHOLES = 6
_DUEL_SECONDS = (0.4, 1.6)
_DUEL_PRECISION = 0.01


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole model with nothing removed: the widths of its groups and its measured milliseconds."""

    widths: Widths
    ms: float


@dataclass(eq=False)
class Fill(ABC):
    """Fills tables from measurements; `wholes` collects the whole models measured on the way.

    Whole models run in turn with the dense one, and count what the ratio makes of its time: single runs of theirs,
    minutes apart on a machine that others use, would not compare.

    Attributes:
        meter: measures, and keeps what it measures.
        tables: the regions of a model.
        designs: widths of the whole models that may be measured, the dense one first.
        build: makes a whole model of given widths.
        feeds: inputs of whole models.
    """

    name: ClassVar[str]

    meter: Meter
    tables: Sequence[RegionTable]
    designs: Sequence[Widths]
    build: BuildWhole
    feeds: Feeds
    wholes: list[Whole] = field(default_factory=list)

    @abstractmethod
    def fill(self, progress: Progress = silent) -> None:
        """Measure what every table needs; `progress` is told how many of `steps` are done."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How much there is to measure."""

    @abstractmethod
    def refine(self, entries: Sequence[Entry]) -> None:
        """Measure single entries, where this way can."""

    def whole_text(self, widths: Widths) -> str:
        """The canonical text of a whole model: that of its regions, whatever its tensors are called."""
        texts = "\n".join(table.text(table.index(widths)) for table in self.tables)
        sizes = ",".join(str(list(array.shape)) for array in self.feeds.values())
        return f"whole model of {len(self.tables)} regions {hashlib.sha256(texts.encode()).hexdigest()[:32]} {sizes}"

    def _add_whole(self, widths: Widths) -> None:
        ms = self.meter.latency(self.whole_text(widths))
        if ms is not None:
            self.wholes.append(Whole(widths, ms))

    def _dense_ms(self) -> float:
        """The dense model's time, which all whole models are measured against."""
        text = self.whole_text(self.designs[0])
        self.meter.fill({text: lambda: (self.build(self.designs[0]), self.feeds)})
        ms = self.meter.latency(text)
        if ms is None:
            raise RuntimeBackendError(f"the dense model cannot be measured: {self.meter.failed.get(text, '')}")
        return ms

    def _whole(self, model: bytes) -> Timing:
        """The time of a whole model by its ratio to the dense one's."""
        pair = ((self._dense, self.feeds), (model, self.feeds))
        duel = self.meter.engine.duel(*pair, _DUEL_SECONDS, _DUEL_PRECISION)
        ratio = duel.busy_ratio if self.meter.engine.facts.trusts_busy else duel.wall_ratio
        return Timing(ratio * self._dense_ms(), duel.wall[1], duel.precision, duel.rounds, 1.0)

    @cached_property
    def _dense(self) -> bytes:
        return self.build(self.designs[0]).SerializeToString()


class Isolated(Fill):
    """Every region is a small model of its own; a few whole models tell how the sum relates to the whole."""

    name: ClassVar[str] = "isolated"

    @property
    def steps(self) -> int:
        """Distinct entries, and the whole models."""
        texts = {table.text(index) for table in self.tables for index in table.coarse()}
        return len(texts) + len(self._picked())

    def fill(self, progress: Progress = silent) -> None:
        """Measure the coarse grid of every table, then the whole models."""
        requests = {table.text(index): table.build(index) for table in self.tables for index in table.coarse()}
        self.meter.fill(requests, progress)
        for table in self.tables:
            table.read(self.meter, table.coarse())
        self._dense_ms()
        for done, widths in enumerate(self._picked(), 1):
            text = self.whole_text(widths)
            if self.meter.latency(text) is None:
                self.meter.store({text: self._whole(self.build(widths).SerializeToString())})
            self._add_whole(widths)
            progress(len(requests) + done)

    def refine(self, entries: Sequence[Entry]) -> None:
        """Measure entries on their own."""
        self.meter.fill({table.text(index): table.build(index) for table, index in entries})
        for table, index in entries:
            table.read(self.meter, [index])

    def _picked(self) -> list[Widths]:
        """The dense model and some of the rest, evenly."""
        count = min(_ISOLATED_WHOLES, len(self.designs))
        return [self.designs[round(i * (len(self.designs) - 1) / max(count - 1, 1))] for i in range(count)]


class InSitu(Fill):
    """Whole models of an orthogonal array are profiled; a region's time is that of its kernels within them.

    So fusion across regions, changes of layout and the state of the caches count as they do in the deployed model.
    """

    name: ClassVar[str] = "in-situ"

    @property
    def steps(self) -> int:
        """The whole models."""
        return len(self.designs)

    def fill(self, progress: Progress = silent) -> None:
        """Profile every whole model whose entries are not all known."""
        network = self.tables[0].maker.network
        attribution = Attribution(network, [table.region for table in self.tables])
        self._dense_ms()
        for done, widths in enumerate(self.designs, 1):
            if self.meter.latency(_in_situ(self.whole_text(widths))) is None:
                self._profile(widths, attribution)
            self._add_whole(widths)
            progress(done)
        self._read()

    def refine(self, entries: Sequence[Entry]) -> None:
        """Single entries cannot be measured within a whole model: the fit between the profiled ones stands."""

    def _profile(self, widths: Widths, attribution: Attribution) -> None:
        """Profile one whole model; its kernels' times add up to what the model takes without the profiler."""
        model = self.build(widths).SerializeToString()
        whole = self._whole(model)
        times, lost = attribution.times(self.meter.engine.profile((model, self.feeds), _RUNS))
        scale = whole.ms / max(math.fsum(times) + lost, 1e-9)
        observed: dict[str, list[float]] = {}
        for table, time in zip(self.tables, times, strict=True):
            observed.setdefault(_in_situ(table.text(table.index(widths))), []).append(time * scale)
        timings = {key: self._merged(key, math.fsum(found) / len(found)) for key, found in observed.items()}
        text = self.whole_text(widths)
        self.meter.store({**timings, text: whole, _in_situ(text): whole})

    def _merged(self, key: str, ms: float) -> Timing:
        """The mean over all whole models that have shown this entry."""
        before = self.meter.entry(key)
        count = before.count if before else 0
        mean = ((before.ms if before else 0.0) * count + ms * _RUNS) / (count + _RUNS)
        return Timing(mean, mean, 0.0, count + _RUNS, 1.0)

    def _read(self) -> None:
        for table in self.tables:
            for widths in self.designs:
                index = table.index(widths)
                ms = self.meter.latency(_in_situ(table.text(index)))
                if ms is not None:
                    table.known[index] = ms


def _in_situ(text: str) -> str:
    return f"in situ\n{text}"


WAYS: Mapping[str, type[Fill]] = {Isolated.name: Isolated, InSitu.name: InSitu}


def choose_way(name: str, *, profiles: bool) -> type[Fill]:
    """The way to fill, by name or as the default.

    Raises:
        RuntimeBackendError: whole models are asked to be profiled on a runtime that cannot.
    """
    if name == "auto":
        return Isolated
    if name == InSitu.name and not profiles:
        raise RuntimeBackendError("this runtime does not time single kernels; use --fill isolated")
    return WAYS[name]
