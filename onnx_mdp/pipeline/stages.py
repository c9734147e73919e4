"""The stages every command shares: load, analyze, read inputs, place the output."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_mdp.errors import DynamicShapeError, NothingToPruneError, OptionError, OutputError
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.load import Source
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.network import Network, read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.graph.save import check_writable
from onnx_mdp.graph.shapes import Shape, declared_inputs
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import SYNTHETIC, InputsLike, Reading, load_inputs
from onnx_mdp.lossless.convolve import Convolved, convolve
from onnx_mdp.lossless.push import Moved, move_up
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.runtime.base import Feeds, Runtime
from onnx_mdp.runtime.registry import prover

ModelLike = str | Path | onnx.ModelProto


@dataclass
class Clock:
    """Seconds per stage; announces each stage to the listener."""

    listener: Listener
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        self.listener.stage(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Lossless:
    """Which rewrites to make that change no result: whether selections move up, and which shortcuts are convolved.

    `shortcuts` are names; None stands for all there are.
    """

    moves: bool = True
    shortcuts: Collection[str] | None = None


NOTHING = Lossless(moves=False, shortcuts=())


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network that is ready to be analyzed, the calibration inputs, and what was rewritten in it without loss.

    Attributes:
        moved: the selections that were moved up.
        convolved: the shortcuts that became convolutions.
    """

    network: Network
    inputs: Inputs | None
    moved: tuple[Moved, ...] = ()
    convolved: tuple[Convolved, ...] = ()

    @property
    def rewrites(self) -> Lossless:
        """What was rewritten."""
        return Lossless(bool(self.moved), tuple(one.name for one in self.convolved))

    def lossless(self) -> dict[str, Any]:
        """What was rewritten, and the multiply-accumulates that saves of those there were, as plain data."""
        saved = sum(moved.macs for moved in self.moved) - sum(one.macs for one in self.convolved)
        total = sum(node_macs(self.network).values()) + saved
        moved, convolved = ([asdict(one) for one in found] for found in (self.moved, self.convolved))
        return {"moved": moved, "convolved": convolved, "macs_saved": saved, "macs_total": total}

    def again(self, model: onnx.ModelProto, rewrites: Lossless) -> Prepared:
        """The same from the model as it was given, with other rewrites; it is brought into normal form in place."""
        normalize(model, self.network.inputs)
        return _rewritten(read_network(model, self.network.inputs), self.inputs, rewrites)


def prepare(
    model: onnx.ModelProto,
    shapes: Mapping[str, Shape],
    inputs: InputsLike | None = None,
    reading: Reading | None = None,
    *,
    lossless: bool | Lossless,
) -> Prepared:
    """The network at concrete shapes; calibration inputs settle dynamic sizes that --shape leaves open.

    The model is brought into normal form in place, and with `lossless` rewritten to what computes the same faster.
    """
    shapes, loaded = _settled(model, shapes, inputs, reading)
    normalize(model, shapes)
    rewrites = lossless if isinstance(lossless, Lossless) else Lossless() if lossless else NOTHING
    return _rewritten(read_network(model, shapes), loaded, rewrites)


def _rewritten(network: Network, inputs: Inputs | None, rewrites: Lossless) -> Prepared:
    network, convolved = convolve(network, rewrites.shortcuts)
    network, moved = move_up(network) if rewrites.moves else (network, ())
    return Prepared(network, inputs, moved, convolved)


def _settled(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], inputs: InputsLike | None, reading: Reading | None
) -> tuple[Mapping[str, Shape], Inputs | None]:
    if inputs is None:
        _check_unread(reading or Reading())
        return shapes, None
    loaded = read_inputs(model.graph, inputs, reading, shapes)
    settled = {s.name: (s.batch or 1, *loaded.sample_shapes[s.name]) for s in loaded.specs}
    return {**settled, **shapes}, loaded


def read_inputs(
    graph: onnx.GraphProto, inputs: InputsLike, reading: Reading | None, shapes: Mapping[str, Shape] | None = None
) -> Inputs:
    """The user's inputs, checked against what a graph declares, and against the sizes asked for in `shapes`."""
    asked = shapes or {}
    declared = declared_inputs(graph)
    specs = tuple(_spec(name, elem, dims, asked.get(name)) for name, (elem, dims) in declared.items())
    return load_inputs(inputs, specs, reading)


def seeded_inputs(network: Network, count: int, seed: int) -> Inputs:
    """Seeded inputs for where the user gave none."""
    return read_inputs(network.model.graph, SYNTHETIC, Reading(samples=count, seed=seed), network.inputs)


def first_feeds(network: Network, inputs: Inputs | None, seed: int) -> Feeds:
    """What one run takes: the first inputs, or seeded noise where there are none."""
    if inputs is None:
        return random_feeds(network.model, network.inputs, seed)
    return {name: inputs.first(shape[0])[name] for name, shape in network.inputs.items()}


def _check_unread(reading: Reading) -> None:
    for option, value in (("preprocess", reading.preprocess), ("labels", reading.labels), ("samples", reading.samples)):
        if value is not None:
            raise OptionError(f"--{option} {value}: says how --inputs are read, and there are none; add --inputs")


def _spec(name: str, elem: Any, dims: list[int | None] | None, asked: Shape | None) -> InputSpec:
    if dims is None:
        raise DynamicShapeError(f"input {name!r} has no declared rank; give it: --shape {name}:1x3x224x224")
    known = list(asked) if asked else dims
    batch = dims[0] if dims else None
    return InputSpec(name, np.dtype(elem), tuple(known[1:]), batch)


def exact_runtime(network: Network, runtime: Runtime) -> Runtime:
    """What a network is proven on: the runtime, or another where that rounds more than the network's types do."""
    return prover(runtime, double=onnx.TensorProto.DOUBLE in network.types.values())


def analyze_or_refuse(network: Network, locks: tuple[str, ...], name: str) -> Analysis:
    """The analysis; an error where nothing can be pruned.

    Raises:
        NothingToPruneError: there is neither a group nor a block; the message names what locks the most.
    """
    analysis = analyze(network, locks)
    if not analysis.groups and not analysis.blocks:
        reasons = dict.fromkeys(str(locked.reasons[0]) for locked in sorted(analysis.locked, key=lambda x: -x.units))
        why = "; ".join(list(reasons)[:3]) or "no weight has an axis that could be cut"
        raise NothingToPruneError(f"{name}: nothing to prune: {why}; see onnx-mdp inspect")
    return analysis


def check_output(output: Path | None, source: Source, *, force: bool) -> None:
    """Fail before the work starts if the result could not be written after it.

    Raises:
        OutputError: it cannot be written, or is the input model and `force` is not set.
    """
    if output is None:
        return
    if source.path and output.exists() and os.path.samefile(output, source.path) and not force:
        raise OutputError(f"{output}: is the input model; choose another --output, or --force to overwrite it")
    check_writable(output)
