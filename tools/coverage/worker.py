"""One model from file to record, in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from coverage import anatomy, zoo
from coverage.families import family_of
from coverage.memory import PeakMemory
from coverage.proof import Proven, VacuousError, louder, proven_cut
from coverage.record import EXACT, FAILED, LEFT_ALONE, Record
from coverage.warm import warm_up
from onnx_mdp.errors import MdpError, ProofError, RuntimeBackendError
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.graph.load import Source, load
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.network import Network, read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.groups.share import lock_reasons, prunable_share
from onnx_mdp.lossless.push import move_up
from onnx_mdp.pipeline.stages import read_inputs
from onnx_mdp.rewrite.plan import Plan, uniform_plan
from onnx_mdp.runtime.base import Feeds, Runtime, RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime
from onnx_mdp.streams.turn import Turned, turn
from onnx_mdp.verify.oracle import prove_same

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
    feeds: Sequence[Feeds] = _feeds(file)
    runtime = open_runtime(RuntimeSpec(threads=threads))
    source, network = _analyze(record, path, {name: value.shape for name, value in feeds[0].items()}, runtime)
    turned = _opened(network, feeds, runtime)
    analysis = turned.analysis()
    _describe(record, analysis)
    if not analysis.groups and not analysis.blocks:
        record.verdict = f"{LEFT_ALONE}: {anatomy.why_nothing(analysis)}"
        return
    rng = np.random.default_rng(SEED)
    halved = _half(analysis, rng)
    proven, feeds = _proven_loudly(source, analysis, halved, runtime, feeds)
    record.cut_kinds = anatomy.kinds(g.kind for g in analysis.groups if len(halved.kept[g.name]) < g.units)
    record.proof, record.tolerance, record.compared = proven.error, proven.tolerance, proven.compared
    if analysis.blocks:
        plan, shallow = _without_blocks(source, analysis, halved, runtime, feeds, rng)
        record.removed = len(plan.removed)
        record.proof = max(record.proof, shallow.error)
    _weigh(record, source, network, turned.restored(analysis, halved, proven.model))
    record.verdict = EXACT


def _feeds(file: Path) -> list[Feeds]:
    """Two input sets; the stripped model is enough to make them."""
    model = onnx.load(str(file))
    return [zoo.inputs(file, model, seed) for seed in (1, 2)]


def _analyze(record: Record, path: Path, shapes: dict[str, Shape], runtime: Runtime) -> tuple[Source, Network]:
    """Load and analyze as `prune` does, with the CPU time and the memory that takes; streams are not rotated yet.

    CPU time, because several workers share the machine; after a first analysis, as what that loads is no model's.
    Memory is taken before streams are opened, too: that makes a second network, which is no part of finding groups.
    """
    warm_up()
    peak, started = PeakMemory(), time.process_time()
    source, model = load(path)
    normalize(model, shapes)
    network, moved = move_up(read_network(model, shapes))
    loaded = time.process_time()
    analyze(network)
    record.memory_bytes = peak.bytes()
    analyzed = time.process_time()
    turn(network, runtime, {}, rotates=False).analysis()
    record.seconds = loaded - started + max(analyzed - loaded, time.process_time() - analyzed)
    record.opened_bytes = peak.bytes()
    saved = sum(one.macs for one in moved)
    record.macs_lossless = saved / max(saved + sum(node_macs(network).values()), 1)
    return source, network


def _opened(network: Network, feeds: Sequence[Feeds], runtime: Runtime) -> Turned:
    """The network with its streams made cuttable as `prune` does: as far as the rounding of that is not magnified."""
    stacked = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}
    inputs = read_inputs(network.model.graph, stacked, None, network.inputs)
    for rotates in (True, False):
        turned = turn(network, runtime, inputs, rotates=rotates)
        try:
            for scaled in _bearable(network, feeds, runtime):  # any of which the cut may be proven on
                prove_same(network, network.model, turned.coupling.network.model, runtime, scaled)
        except ProofError:
            continue
        return turned
    return turn(network, runtime, {}, rotates=False, selects=())


def _bearable(network: Network, feeds: Sequence[Feeds], runtime: Runtime) -> Iterator[Sequence[Feeds]]:
    """The input sets, louder and louder until the network does not run: a detector that finds nothing may not."""
    session = runtime.open(network.model.SerializeToString())
    for number, scaled in enumerate(louder(feeds)):
        try:
            for one in scaled:
                session.run(one)
        except RuntimeBackendError:
            if not number:
                raise
            return
        yield scaled


def _describe(record: Record, analysis: Analysis) -> None:
    record.groups = len(analysis.groups)
    record.units = sum(group.units for group in analysis.groups)
    record.kinds = anatomy.kinds(group.kind for group in analysis.groups)
    record.attention = anatomy.has_attention(analysis.network)
    record.blocks = len(analysis.blocks)
    share = prunable_share(analysis)
    record.prunable_parameters, record.prunable_macs = share.parameters_share, share.macs_share
    record.freezes = {row.reason: row.parameters for row in lock_reasons(analysis)}
    record.unknown, record.refused = anatomy.refusals(analysis)


def _half(analysis: Analysis, rng: np.random.Generator) -> Plan:
    """Half of every group's units at random, rounded up; of those that are pinned all."""
    order = {group.name: rng.permutation(group.units) for group in analysis.groups}
    order = {
        g.name: np.r_[g.units - g.pinned : g.units, order[g.name][order[g.name] < g.units - g.pinned]]
        for g in analysis.groups
    }
    return uniform_plan(analysis, order, 0.5, {group.name: group.floor for group in analysis.groups}, 1)


def _proven_loudly(
    source: Source, analysis: Analysis, plan: Plan, runtime: Runtime, feeds: Sequence[Feeds]
) -> tuple[Proven, Sequence[Feeds]]:
    """The proof of a cut on inputs that the cut model hears, and those inputs."""
    deaf = VacuousError("there are no inputs")
    for scaled in louder(feeds):
        try:
            return proven_cut(source, analysis, plan, runtime, scaled), scaled
        except VacuousError as error:
            deaf = error
    raise deaf


def _without_blocks(
    source: Source, analysis: Analysis, halved: Plan, runtime: Runtime, feeds: Sequence[Feeds], rng: np.random.Generator
) -> tuple[Plan, Proven]:
    """The cut that also removes about half of the blocks at random, at least one.

    Where that disconnects the outputs from the inputs (a class token without any attention left), fewer are removed.
    """
    shares = (0.5, 0.3, 0.1, 0.0)
    for share in shares:
        removed = [block.name for block in analysis.blocks if rng.random() < share]
        plan = Plan(halved.kept, tuple(removed or [analysis.blocks[-1].name]))
        try:
            return plan, proven_cut(source, analysis, plan, runtime, feeds)
        except VacuousError:
            if share == shares[-1]:
                raise
    raise AssertionError("unreachable")


def _weigh(record: Record, source: Source, network: Network, model: onnx.ModelProto) -> None:
    """What the halved model has left of the original's parameters and multiply-accumulates."""
    halved = read_network(model, network.inputs)
    record.parameters_left = parameter_count(model) / max(source.parameters, 1)
    record.macs_left = sum(node_macs(halved).values()) / max(sum(node_macs(network).values()), 1)
