"""`profile`: fill the tables of a model, and say where its time goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from onnx_mdp.axes.terms import Factor, leaves
from onnx_mdp.config import ProfileOptions
from onnx_mdp.engine.registry import open_engine
from onnx_mdp.errors import OptionError
from onnx_mdp.graph.load import load
from onnx_mdp.graph.network import Network
from onnx_mdp.groups.blocks import gone_with
from onnx_mdp.groups.find import Analysis, Group, analyze
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.inputs.load import InputsLike, Reading
from onnx_mdp.latency.borrow import BorrowedMeter
from onnx_mdp.latency.fill import InSitu, check_way, in_situ_text
from onnx_mdp.latency.interpolate import Table
from onnx_mdp.latency.levels import Floor
from onnx_mdp.latency.lut import LatencyTable, default_path, region_key
from onnx_mdp.latency.measure import Meter
from onnx_mdp.latency.tables import RegionTable
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.stages import ModelLike, exact_runtime, first_feeds, prepare
from onnx_mdp.pipeline.streams import are_opened, check_streams, open_streams
from onnx_mdp.pipeline.tables import borrow_table, check_borrowing, check_table
from onnx_mdp.pipeline.tabulate import Tables, tabulate
from onnx_mdp.quantities import parse_min_keep, parse_shapes, parse_share
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime

Widths = Mapping[Factor, int]


def profile(
    model: ModelLike,
    options: ProfileOptions | None = None,
    *,
    inputs: InputsLike | None = None,
    listener: Listener | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Where the time of a model goes: its regions, groups and blocks by what they cost and could save, as plain data.

    Args:
        model: an .onnx file, or a model in memory.
        options: the options; or give their fields as keywords.
        inputs: inputs to run on, if not among the options: a mapping from input names to arrays, one array, or a
            function that yields feeds.
        listener: receives progress.
        fields: fields of `ProfileOptions`.

    Raises:
        MdpError: anything the user can act on; see `onnx_mdp.errors`.
    """
    options = replace(options or ProfileOptions(), **fields)
    listener = listener or Listener()
    floor, precision = _checked(options)
    source, proto = load(model)
    listener.stage("analyze")
    reading = Reading(options.preprocess, samples=options.samples, seed=options.seed)
    given = inputs if inputs is not None else options.inputs
    prepared = prepare(proto, parse_shapes(options.shape), given, reading, lossless=options.lossless)
    network, samples = prepared.network, prepared.inputs
    for text in samples.notes if samples else ():
        listener.warn(text)
    analysis = _analysis(network, samples, options)
    feeds = first_feeds(network, samples, options.seed)
    listener.stage("profile")
    with _meter(options, precision, listener) as (meter, before):
        tables = tabulate(
            analysis, meter, feeds, floor, options.fill, lambda done, total: listener.step(done, total, "table entries")
        )
        found = _Finding(analysis, tables)
        return {
            "model": source.name,
            "device": meter.table.device,
            "lossless": prepared.lossless(),
            **found.to_json(),
            "table": _reuse(tables, meter, before),
            "failed": dict(meter.failed),
        }


def _analysis(network: Network, inputs: Inputs | None, options: ProfileOptions) -> Analysis:
    """What `prune` would time: the latency of a turned network is the same in whichever directions."""
    if are_opened(options.streams, has_inputs=inputs is not None):
        runtime = open_runtime(RuntimeSpec(options.runtime, options.threads, options.runtime_option))
        few = inputs.take(0, inputs.batch) if inputs else None
        exact = exact_runtime(network, runtime)
        if turned := open_streams(network, exact, few, options.seed, refits=False, rotates=True):
            return turned.timed(turned.analysis(options.lock))
    return analyze(network, options.lock)


def _checked(options: ProfileOptions) -> tuple[Floor, float]:
    """The floor of widths and the precision; every option is checked before the work starts."""
    units, share = parse_min_keep(options.min_keep)
    for name, value in (("multiple", options.multiple), ("threads", options.threads)):
        if value is not None and value < 1:
            raise OptionError(f"--{name} {value}: must be 1 or more")
    if options.top < 0:
        raise OptionError(f"--top {options.top}: must be 1 or more, or 0 for all")
    check_way(options.fill)
    check_streams(options.streams)
    check_borrowing(options.lut_device, options.cluster)
    return Floor(units, share, options.multiple), parse_share(options.precision, "--precision")


@contextmanager
def _meter(options: ProfileOptions, precision: float, listener: Listener) -> Iterator[tuple[Meter, frozenset[str]]]:
    """A meter, and the keys that its table has before it is filled."""
    if options.lut_device is not None:
        with closing(borrow_table(options.lut, options.lut_device)) as lut:
            yield BorrowedMeter(lut, precision), lut.keys()
        return
    spec = RuntimeSpec(options.runtime, options.threads, options.runtime_option)
    with closing(open_engine(spec, options.cluster, open_runtime(spec).fingerprint)) as engine:
        for text in engine.warnings:
            listener.warn(text)
        check_table(options.lut, engine.fingerprint, listener)
        with closing(LatencyTable(options.lut or default_path(), engine.fingerprint)) as lut:
            before = lut.keys()
            yield Meter(engine, lut, precision), before


def _reuse(tables: Tables, meter: Meter, before: frozenset[str]) -> dict[str, Any]:
    """How many of the entries that the model's tables rest on were there before."""
    texts = {table.text(index) for table in tables.tables for index in table.known}
    if isinstance(tables.fill, InSitu):
        texts = {in_situ_text(text) for text in texts}
    reused = sum(region_key(text) in before for text in texts)
    return {
        "file": str(meter.table.path),
        "entries": len(texts),
        "reused": reused,
        "reused_share": reused / len(texts) if texts else 0.0,
        "measured": meter.measured,
    }


@dataclass(frozen=True, eq=False)
class _Finding:
    """What the tables say of the dense model, and of the same with some widths halved or a block removed."""

    analysis: Analysis
    tables: Tables

    def to_json(self) -> dict[str, Any]:
        """Regions, groups and blocks, those of most time or saving first."""
        total = sum(self._dense.values())
        regions = sorted((self._region(table) for table in self.tables.tables), key=lambda r: -float(r["ms"]))
        added = 0.0
        for region in regions:
            added += region["ms"]
            region |= {"share": region["ms"] / total if total else 0.0, "cumulative": added / total if total else 0.0}
        whole = self.tables.fill.wholes[0].ms
        return {
            "whole_ms": whole,
            "sum_ms": total,
            "difference": total / whole - 1,
            "regions": regions,
            "groups": sorted(map(self._group, self.analysis.groups), key=lambda g: -float(g["saves_ms"])),
            "blocks": sorted(
                ({"name": b.name, "saves_ms": self._removed(b.name)} for b in self.analysis.blocks),
                key=lambda b: -float(b["saves_ms"]),
            ),
        }

    @cached_property
    def _values(self) -> dict[RegionTable, Table]:
        return {table: table.table() for table in self.tables.tables}

    @cached_property
    def _dense(self) -> dict[RegionTable, float]:
        return {table: self._ms(table, {}) for table in self.tables.tables}

    def _ms(self, table: RegionTable, widths: Widths) -> float:
        return float(self._values[table][table.index(widths)])

    def _region(self, table: RegionTable) -> dict[str, Any]:
        groups = self._groups_of(table)
        halved = self._ms(table, {group.factor: self._half(group) for group in groups})
        return {
            "name": table.region.name,
            "operators": list(dict.fromkeys(node.op for node in table.region.nodes)),
            "ms": self._dense[table],
            "groups": [group.name for group in groups],
            "block": table.region.block,
            "halved_ms": halved,
            "saves_ms": self._dense[table] - halved,
        }

    def _group(self, group: Group) -> dict[str, Any]:
        """A group, the time of the regions that depend on it, and what halving it alone saves of that."""
        mine = [table for table in self.tables.tables if group in self._groups_of(table)]
        halved = {group.factor: self._half(group)}
        ms = sum(self._dense[table] for table in mine)
        return {
            "name": group.name,
            "kind": group.kind,
            "units": group.units,
            "halved": self._half(group),
            "ms": ms,
            "saves_ms": ms - sum(self._ms(table, halved) for table in mine),
        }

    def _removed(self, block: str) -> float:
        gone = gone_with(self.analysis.blocks, (block,))
        return sum(ms for table, ms in self._dense.items() if table.region.block in gone)

    def _groups_of(self, table: RegionTable) -> list[Group]:
        found = dict.fromkeys(leaf for term in table.region.variables for leaf in leaves(term))
        return [self.analysis.by_factor[leaf] for leaf in found if leaf in self.analysis.by_factor]

    def _half(self, group: Group) -> int:
        """The candidate width nearest to half of the units."""
        return min(self.tables.levels[group.factor], key=lambda width: abs(width - group.units / 2))
