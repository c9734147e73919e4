"""Two ways to fill latency tables: regions timed on their own, or within whole models."""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar

import onnx

from onnx_mdp.axes.terms import Factor
from onnx_mdp.engine.base import Timing
from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.graph.external import loadable
from onnx_mdp.groups.blocks import Block, gone_with, parent_blocks
from onnx_mdp.latency.attribute import Attribution
from onnx_mdp.latency.design import Variant, orthogonal, uniform
from onnx_mdp.latency.measure import Meter, Progress, silent, sizes_text
from onnx_mdp.latency.tables import RegionTable
from onnx_mdp.runtime.base import Feeds

Entry = tuple[RegionTable, tuple[int, ...]]
BuildWhole = Callable[[Variant], onnx.ModelProto]

_RUNS = (3, 12)
_RUNS_MS = 1000.0
_DOUBT = 6.0  # what factors of regions are drawn towards one by, in whole models; chosen on tools/bench_latency.py
_DUEL_SECONDS = (0.4, 1.6)
_DUEL_PRECISION = 0.01


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole model and its measured milliseconds."""

    variant: Variant
    ms: float


@dataclass(eq=False)
class Fill(ABC):
    """Fills tables from measurements; `wholes` collects the whole models measured on the way.

    Whole models run in turn with the dense one, and count what the ratio makes of its time: single runs of theirs,
    minutes apart on a machine that others use, would not compare.

    Attributes:
        meter: measures, and keeps what it measures.
        tables: the regions of a model.
        levels: candidate widths of each group.
        blocks: the removable blocks.
        build: makes a whole model of given widths.
        feeds: inputs of whole models.
    """

    name: ClassVar[str]

    meter: Meter
    tables: Sequence[RegionTable]
    levels: Mapping[Factor, tuple[int, ...]]
    blocks: tuple[Block, ...]
    build: BuildWhole
    feeds: Feeds
    wholes: list[Whole] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack)

    @cached_property
    @abstractmethod
    def designs(self) -> Sequence[Variant]:
        """The whole models to measure, the dense one first."""

    @abstractmethod
    def fill(self, progress: Progress = silent) -> None:
        """Measure what every table needs."""

    @abstractmethod
    def refine(self, entries: Sequence[Entry]) -> bool:
        """Measure single entries; whether this way can, and so some are known now that were not."""

    def whole_text(self, variant: Variant) -> str:
        """The canonical text of a whole model: that of its regions, whatever its tensors are called."""
        gone = gone_with(self.blocks, variant.removed)
        kept = [table for table in self.tables if table.region.block not in gone]
        texts = "\n".join(table.text(table.index(variant.widths)) for table in kept)
        digest = hashlib.sha256(texts.encode()).hexdigest()[:32]
        return f"whole model of {len(kept)} regions {digest} {sizes_text(self.feeds)}"

    def _add_whole(self, variant: Variant) -> None:
        ms = self.meter.latency(self.whole_text(variant))
        if ms is not None:
            self.wholes.append(Whole(variant, ms))

    @cached_property
    def _dense_ms(self) -> float:
        """The dense model's time, which all whole models are measured against."""
        text = self.whole_text(self.designs[0])
        self.meter.fill({text: lambda: (self.build(self.designs[0]), self.feeds)})
        ms = self.meter.latency(text)
        if ms is None:
            raise RuntimeBackendError(f"the dense model cannot be measured: {self.meter.failed.get(text, '')}")
        return ms

    def _whole(self, model: str | bytes) -> Timing:
        """The time of a whole model by its ratio to the dense one's."""
        pair = ((self._dense, self.feeds), (model, self.feeds))
        duel = self.meter.engine.duel(*pair, _DUEL_SECONDS, _DUEL_PRECISION)
        ratio = duel.busy_ratio if self.meter.engine.facts.trusts_busy else duel.wall_ratio
        return Timing(ratio * self._dense_ms, duel.wall[1], duel.precision, duel.rounds)

    @cached_property
    def _attribution(self) -> Attribution:
        return Attribution(self.tables[0].maker.network, [table.region for table in self.tables])

    def _measure(self, variant: Variant, *, profiled: bool) -> None:
        """Measure a whole model, and what of its time is each region's if it is to be profiled."""
        text = self.whole_text(variant)
        with loadable(partial(self.build, variant)) as model:
            whole = self._whole(model)
            parts = {in_situ_text(text): whole, **self._parts(model, variant, whole.ms)} if profiled else {}
        self.meter.store({**parts, text: whole})

    def _parts(self, model: str | bytes, variant: Variant, ms: float) -> dict[str, Timing]:
        """What a profiled model says of its regions: their times add up to what it takes without the profiler."""
        fewest, most = _RUNS
        runs = min(max(round(_RUNS_MS / max(ms, 1e-9)), fewest), most)
        times, lost = self._attribution.times(self.meter.engine.profile((model, self.feeds), runs))
        scale = ms / max(math.fsum(times) + lost, 1e-9)
        gone = gone_with(self.blocks, variant.removed)
        observed: dict[str, list[float]] = {}
        for table, time in zip(self.tables, times, strict=True):
            if table.region.block not in gone:
                observed.setdefault(self._part_text(table, variant), []).append(time * scale)
        return {text: self._merged(text, math.fsum(found) / len(found), runs) for text, found in observed.items()}

    def _merged(self, text: str, ms: float, runs: int) -> Timing:
        """The mean over all whole models that have shown this entry."""
        before = self.meter.entry(text)
        count = before.count if before else 0
        mean = ((before.ms if before else 0.0) * count + ms * runs) / (count + runs)
        return Timing(mean, mean, 0.0, count + runs)

    def _part_text(self, table: RegionTable, variant: Variant) -> str:
        return in_situ_text(table.text(table.index(variant.widths)))

    @cached_property
    def _dense(self) -> str | bytes:
        return self._open.enter_context(loadable(partial(self.build, self.designs[0])))

    def close(self) -> None:
        """Drop the dense model."""
        self.__dict__.pop("_dense", None)
        self._open.close()


class Isolated(Fill):
    """Every region is a small model of its own; a few whole models tell how the sum relates to the whole."""

    name: ClassVar[str] = "isolated"

    @cached_property
    def designs(self) -> Sequence[Variant]:
        """Models cut to the same share everywhere: what the ratio of the whole to its parts depends on is the size."""
        outermost = [name for name, parent in parent_blocks(self.blocks).items() if parent is None]
        return uniform(self.levels, outermost)

    def fill(self, progress: Progress = silent) -> None:
        """Measure the coarse grid of every table, then the whole models."""
        requests = {table.text(index): table.build(index) for table in self.tables for index in self.indices(table)}
        total = len(requests) + len(self.designs)
        self.meter.fill(requests, lambda done, _: progress(done, total))
        for table in self.tables:
            table.read(self.meter, self.indices(table))
        for done, variant in enumerate(self.designs, 1):
            if self.meter.latency(self.whole_text(variant)) is None:
                self._measure_or_time(variant)
            self._add_whole(variant)
            progress(len(requests) + done, total)
        self.compare()

    def _measure_or_time(self, variant: Variant) -> None:
        """Profile a whole model where the runtime can; these tables also do without."""
        with suppress(RuntimeBackendError):
            self._measure(variant, profiled=self.meter.engine.profiles)
        if self.meter.latency(self.whole_text(variant)) is None:
            self._measure(variant, profiled=False)

    def compare(self) -> None:
        """Learn what each region takes within the profiled models, in ratio to what it takes on its own.

        On its own a region finds its weights in the cache, and its inputs in the layout it likes best.
        """
        for table in self.tables:
            alone, ratios = table.table(), []
            for variant in (whole.variant for whole in self.wholes):
                ms = self.meter.latency(self._part_text(table, variant))
                before = float(alone[table.index(variant.widths)])
                if ms and before and table.region.block not in gone_with(self.blocks, variant.removed):
                    ratios.append(math.log(ms / before))
            table.factor = math.exp(math.fsum(ratios) / (len(ratios) + _DOUBT))

    def indices(self, table: RegionTable) -> Sequence[tuple[int, ...]]:
        """The entries measured before any plan is known: a coarse grid."""
        return table.coarse()

    def refine(self, entries: Sequence[Entry]) -> bool:
        """Measure entries on their own."""
        self.meter.fill({table.text(index): table.build(index) for table, index in entries})
        for table, index in entries:
            table.read(self.meter, [index])
        return any(index in table.known for table, index in entries)


class Exhaustive(Isolated):
    """Every entry is measured on its own, whether a plan may need it or not: what the other ways are held against."""

    name: ClassVar[str] = "exhaustive"

    def indices(self, table: RegionTable) -> Sequence[tuple[int, ...]]:
        """All entries."""
        return list(itertools.product(*(range(len(axis)) for axis in table.levels)))


class InSitu(Fill):
    """Whole models of an orthogonal array are profiled; a region's time is that of its kernels within them.

    So fusion across regions, changes of layout and the state of the caches count as they do in the deployed model.
    """

    name: ClassVar[str] = "in-situ"

    @cached_property
    def designs(self) -> Sequence[Variant]:
        """The rows of an orthogonal array."""
        return orthogonal([table.region for table in self.tables], self.levels)

    def fill(self, progress: Progress = silent) -> None:
        """Profile every whole model whose entries are not all known."""
        for done, variant in enumerate(self.designs, 1):
            if self.meter.latency(in_situ_text(self.whole_text(variant))) is None:
                self._measure(variant, profiled=True)
            self._add_whole(variant)
            progress(done, len(self.designs))
        self._read()

    def refine(self, entries: Sequence[Entry]) -> bool:
        """Single entries cannot be measured within a whole model: the fit between the profiled ones stands."""
        return False

    def _read(self) -> None:
        for table in self.tables:
            for variant in self.designs:
                index = table.index(variant.widths)
                ms = self.meter.latency(self._part_text(table, variant))
                if ms is not None:
                    table.known[index] = ms


def in_situ_text(text: str) -> str:
    """The canonical text of a region's time within whole models."""
    return f"in situ\n{text}"


WAYS: Mapping[str, type[Fill]] = {way.name: way for way in (Isolated, InSitu, Exhaustive)}


def check_way(name: str) -> None:
    """Fail early on a way that does not exist.

    Raises:
        OptionError: there is no such way.
    """
    if name not in (*WAYS, "auto"):
        raise OptionError(f"--fill {name}: choose from {', '.join((*WAYS, 'auto'))}")


def choose_way(name: str, *, profiles: bool) -> type[Fill]:
    """The way to fill, by name or as the default, which held-out errors decide: see tools/bench_latency.py.

    Raises:
        OptionError: there is no such way, or the runtime cannot profile whole models.
    """
    check_way(name)
    if name == InSitu.name and not profiles:
        raise OptionError("--fill in-situ: this runtime does not time single kernels; use --fill isolated")
    return WAYS[Isolated.name if name == "auto" else name]
