"""One model from file to record, in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from coverage import anatomy, zoo
from coverage.families import family_of
from coverage.memory import PeakMemory
from coverage.proof import Proven, proven_cut
from coverage.record import EXACT, FAILED, LEFT_ALONE, Record
from onnx_mdp.errors import MdpError
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.graph.load import Source, load
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.network import Network, read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.rewrite.plan import Plan, uniform_plan
from onnx_mdp.runtime.base import Feeds
from onnx_mdp.runtime.registry import open_runtime

SEED = 0


def examine(file: Path, threads: int = 1) -> Record:
    """Everything that is recorded of a model; what goes wrong becomes its verdict."""
    record = Record(file.stem, family_of(file.stem).name)
    with _on_disk(file) as path:
        record.bytes = path.stat().st_size
        try:
            _examine(record, file, path, threads)
        except (MdpError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            record.verdict = f"{FAILED}: {type(error).__name__}: {error}"
    return record


@contextmanager
def _on_disk(file: Path) -> Iterator[Path]:
    """The inflated model as a file: the program reads files, and its memory is measured from there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file.name
        onnx.save(zoo.inflate(file, SEED), str(path))
        yield path


def _examine(record: Record, file: Path, path: Path, threads: int) -> None:
    feeds = _feeds(file)
    source, analysis = _analyze(record, path, {name: value.shape for name, value in feeds[0].items()})
    _describe(record, analysis)
    if not analysis.groups and not analysis.blocks:
        record.verdict = f"{LEFT_ALONE}: {anatomy.why_nothing(analysis)}"
        return
    rng = np.random.default_rng(SEED)
    runtime = open_runtime("onnxruntime", threads)
    halved = _half(analysis, rng)
    plans = [halved, *([_with_blocks(analysis, halved, rng)] if analysis.blocks else [])]
    proven = [proven_cut(source, analysis, plan, runtime, feeds) for plan in plans]
    record.removed = len(plans[-1].removed)
    record.cut_kinds = anatomy.kinds(g.kind for g in analysis.groups if len(halved.kept[g.name]) < g.units)
    record.proof = max(one.error for one in proven)
    record.tolerance = max(one.tolerance for one in proven)
    record.compared = proven[0].compared
    _weigh(record, source, analysis.network, proven[0])
    record.verdict = EXACT


def _feeds(file: Path) -> list[Feeds]:
    """Two input sets; the stripped model is enough to make them."""
    model = onnx.load(str(file))
    return [zoo.inputs(file, model, seed) for seed in (1, 2)]


def _analyze(record: Record, path: Path, shapes: dict[str, Shape]) -> tuple[Source, Analysis]:
    """Load and analyze as `prune` does, with the CPU time and the memory that takes.

    CPU time, because several workers share the machine.
    """
    peak, started = PeakMemory(), time.process_time()
    source, model = load(path)
    normalize(model, shapes)
    analysis = analyze(read_network(model, shapes))
    record.seconds = time.process_time() - started
    rise = peak.bytes()
    record.memory = rise / record.bytes
    record.memory_over = rise
    return source, analysis


def _describe(record: Record, analysis: Analysis) -> None:
    record.groups = len(analysis.groups)
    record.units = sum(group.units for group in analysis.groups)
    record.kinds = anatomy.kinds(group.kind for group in analysis.groups)
    record.attention = anatomy.has_attention(analysis.network)
    record.blocks = len(analysis.blocks)
    record.prunable_parameters, record.prunable_macs = anatomy.prunable_share(analysis)
    record.freezes = anatomy.freezes(analysis)
    record.unknown, record.refused = anatomy.refusals(analysis)


def _half(analysis: Analysis, rng: np.random.Generator) -> Plan:
    """Half of every group's units at random, rounded up."""
    order = {group.name: rng.permutation(group.units) for group in analysis.groups}
    return uniform_plan(analysis, order, 0.5, {group.name: group.floor for group in analysis.groups}, 1)


def _with_blocks(analysis: Analysis, plan: Plan, rng: np.random.Generator) -> Plan:
    """The plan with about half of the blocks removed as well, and at least one."""
    removed = [block.name for block in analysis.blocks if rng.random() < 0.5]
    return Plan(plan.kept, tuple(removed or [analysis.blocks[0].name]))


def _weigh(record: Record, source: Source, network: Network, proven: Proven) -> None:
    """What the halved model has left of the original's parameters and multiply-accumulates."""
    halved = read_network(proven.model, network.inputs)
    record.parameters_left = parameter_count(proven.model) / max(source.parameters, 1)
    record.macs_left = sum(node_macs(halved).values()) / max(sum(node_macs(network).values()), 1)
