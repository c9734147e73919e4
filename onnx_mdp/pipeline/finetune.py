"""`finetune`: weights of a cut model trained towards the dense model's outputs, and given back in its own graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_mdp.errors import InputError, ModelError, OptionError
from onnx_mdp.finetune_config import FinetuneOptions
from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.infer import infer
from onnx_mdp.graph.load import Source, load
from onnx_mdp.graph.save import check_writable, save_model, write_text
from onnx_mdp.graph.shapes import dims
from onnx_mdp.groups.find import analyze
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.inputs.labels import LabelsLike
from onnx_mdp.inputs.load import InputsLike, Reading
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.stages import Clock, ModelLike, check_output, prepare, read_inputs
from onnx_mdp.quantities import parse_amount, parse_share
from onnx_mdp.runtime.base import Runtime, RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime
from onnx_mdp.verify.oracle import check_structure

if TYPE_CHECKING:
    from onnx_mdp.torch.tune.held_out import Score
    from onnx_mdp.torch.tune.tune import Tuned


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """What `finetune` returns: the model, and what was done as plain data."""

    model: onnx.ModelProto
    report: dict[str, Any]


def finetune(
    model: ModelLike,
    options: FinetuneOptions | None = None,
    *,
    dense: ModelLike | None = None,
    inputs: InputsLike | None = None,
    labels: LabelsLike | None = None,
    listener: Listener | None = None,
    **fields: Any,
) -> FinetuneResult:
    """Train a cut model towards the dense model's outputs; where that does no good, the model is returned as given.

    Args:
        model: the cut model: an .onnx file, or a model in memory.
        options: the options; or give their fields as keywords.
        dense: the model it was cut from.
        inputs: inputs to train on: a file, a mapping from input names to arrays, or one array.
        labels: labels of the inputs, if not among the options: integers.
        listener: receives progress.
        fields: fields of `FinetuneOptions`.

    Raises:
        MdpError: anything the user can act on; see `onnx_mdp.errors`.
    """
    options = replace(options or FinetuneOptions(), **fields)
    inputs = inputs if inputs is not None else options.inputs
    dense = dense if dense is not None else options.dense
    return _Finetuner(options, listener or Listener(), labels).run(model, dense, inputs)


class _Finetuner:
    """One run; every option is checked at once."""

    def __init__(self, options: FinetuneOptions, listener: Listener, labels: LabelsLike | None) -> None:
        if find_spec("torch") is None:
            raise OptionError("finetune: PyTorch is not installed: pip install 'onnx-mdp[torch]'")
        _check_options(options)
        self.options, self.listener = options, listener
        self.clock = Clock(listener)
        labels = labels if labels is not None else options.labels
        self.reading = Reading(options.preprocess, labels, options.samples, options.seed)
        self.warnings: list[str] = []

    def run(self, model: ModelLike, dense: ModelLike | None, inputs: InputsLike | None) -> FinetuneResult:
        """The model trained, checked and written."""
        if dense is None:
            raise OptionError("--dense: give the model that this one was cut from: its outputs are what is learned")
        if inputs is None:
            raise OptionError("--inputs: give inputs to train on, a few thousand if there are; labels are not needed")
        with self.clock.stage("load"):
            source, proto = load(model)
            self._check_outputs(source)
            whole, dense_proto = load(dense)
            _check_pair(source, proto.graph, whole, dense_proto.graph)
            found = read_inputs(proto.graph, inputs, self.reading)
        for text in found.notes:
            self.warn(text)
        runtime = open_runtime(RuntimeSpec(threads=self.options.threads or 1))
        tuned = self._tuned(proto, dense_proto, whole, found, runtime)
        with self.clock.stage("verify"):
            before, after = _scores(proto, tuned, runtime)
            kept = tuned.model is not None and after.beats(before)
            result = tuned.model if kept and tuned.model is not None else proto
            check_structure(result, source.signature, "the trained model")
        if not kept:
            ended = f" (ended by {tuned.log.ended})" if tuned.log.ended else ""
            remedy = "give more --inputs, or a lower --lr"
            self.warn(f"training did no good on held-out inputs{ended}: the model is as it was; {remedy}")
        report = self._report(tuned, before, after if kept else before, kept=kept)
        self._write(result, report, external=source.external)
        return FinetuneResult(result, report)

    def warn(self, text: str) -> None:
        """Tell the user, and keep it for the report."""
        self.warnings.append(text)
        self.listener.warn(text)

    def _check_outputs(self, source: Source) -> None:
        check_output(self.options.output, source, force=self.options.force)
        for path in (self.options.report, self._checkpoint):
            if path:
                check_writable(path)
        if self.options.resume and self._checkpoint is None:
            raise OptionError("--resume: there is no --output to go by; name the --checkpoint")

    @property
    def _checkpoint(self) -> Path | None:
        options = self.options
        beside = options.output.with_name(f"{options.output.name}.checkpoint") if options.output else None
        return options.checkpoint or beside

    def _tuned(
        self, model: onnx.ModelProto, dense: onnx.ModelProto, whole: Source, inputs: Inputs, runtime: Runtime
    ) -> Tuned:
        from onnx_mdp.torch.tune.tune import Task, Watch, tune

        with self.clock.stage("fine-tune"):
            train, held = _split(inputs, self.options)
            features = _features(model, dense, inputs) if self.options.features else ()
            if self.options.features and not features:
                self.warn("--features: no block's output has the dense model's shape: outputs alone are matched")
            task = Task(model, dense, runtime.open(whole.reference), train, held, features)
            return tune(task, self.options, Watch(self._checkpoint, self.options.resume, self._tell, self.warn))

    def _tell(self, done: float, total: float, text: str) -> None:
        self.listener.step(round(done), round(total), text)
        self.listener.note(text)

    def _report(self, tuned: Tuned, before: Score, after: Score, *, kept: bool) -> dict[str, Any]:
        log, best, held = tuned.log, tuned.best, tuned.held
        options = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self.options).items()}
        return {
            "unit": held.divergence.unit,
            "held_out": held.inputs.count,
            "before": asdict(before),
            "after": asdict(after),
            "kept": kept,
            "epoch": best.epoch,
            "averaged": best.averaged,
            "epochs": log.epochs,
            "steps": log.steps,
            "ended": log.ended,
            "history": log.history,
            "seconds": {name: round(value, 3) for name, value in self.clock.seconds.items()},
            "options": options,
            "warnings": self.warnings,
        }

    def _write(self, model: onnx.ModelProto, report: Mapping[str, Any], *, external: bool) -> None:
        options = self.options
        if options.output:
            save_model(model, options.output, external=external)
        if options.report:
            write_text(options.report, json.dumps(report, indent=1))
        if self._checkpoint and options.checkpoint is None:
            self._checkpoint.unlink(missing_ok=True)


def _check_options(options: FinetuneOptions) -> None:
    """Whether every number is in its range."""
    for name, least in (("epochs", 1), ("batch", 1), ("patience", 1), ("samples", 2), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise OptionError(f"--{name} {value}: must be {least} or more")
    for name in ("minutes", "lr", "temperature"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise OptionError(f"--{name} {value}: must be more than zero")
    for name, value in (("weight-decay", options.weight_decay), ("clip", options.clip)):
        if not value >= 0:
            raise OptionError(f"--{name} {value}: must be zero or more")
    if not 0 <= options.ema < 1:
        raise OptionError(f"--ema {options.ema}: must be from 0 up to but not 1, such as 0.99")
    parse_amount(options.held_out, "--held-out")
    parse_share(options.warmup, "--warmup")


def _check_pair(source: Source, model: onnx.GraphProto, whole: Source, dense: onnx.GraphProto) -> None:
    """Whether two models take the same inputs and give the same outputs."""
    remedy = f"give the model that {source.name} was cut from"
    stored = {tensor.name for graph in (model, dense) for tensor in graph.initializer}
    for what, mine, others in (("input", model.input, dense.input), ("output", model.output, dense.output)):
        known = {value.name: value for value in others if value.name not in stored}
        for value in (value for value in mine if value.name not in stored):
            if value.name not in known:
                found = ", ".join(known)
                raise ModelError(f"--dense {whole.name}: has no {what} {value.name!r}, only {found}; {remedy}")
            here, there = value, known[value.name]
            if not _alike(here, there):
                shown = f"is {_shown(there)} there and {_shown(here)} in {source.name}"
                raise ModelError(f"--dense {whole.name}: {what} {value.name!r} {shown}; {remedy}")


def _alike(value: onnx.ValueInfoProto, other: onnx.ValueInfoProto) -> bool:
    """Whether two have one element type, and all sizes that both declare are equal."""
    sizes, others = dims(value), dims(other)
    if value.type.tensor_type.elem_type != other.type.tensor_type.elem_type:
        return False
    if sizes is None or others is None:
        return True
    return len(sizes) == len(others) and all(a == b or None in (a, b) for a, b in zip(sizes, others, strict=True))


def _shown(value: onnx.ValueInfoProto) -> str:
    """Element type and shape, as messages show them."""
    sizes = "x".join("?" if size is None else str(size) for size in dims(value) or [])
    return f"{onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)} {sizes}".lower().strip()


def _split(inputs: Inputs, options: FinetuneOptions) -> tuple[Inputs, Inputs]:
    """The inputs to train on, and those held out.

    Raises:
        InputError: there are too few.
    """
    size = inputs.fixed_batch or 1
    count = int(parse_amount(options.held_out, "--held-out").of(inputs.count)) // size * size
    if not 0 < count <= inputs.count - size:
        raise InputError(
            f"--held-out {options.held_out}: leaves {max(count, 0)} of {inputs.count} inputs to judge by, and "
            f"{inputs.count - max(count, 0)} to train on; give more --inputs"
        )
    order = np.random.default_rng(options.seed).permutation(inputs.count)
    train = inputs.pick(np.sort(order[count:])).take(0, inputs.count - count)
    return train, inputs.pick(np.sort(order[:count]))


def _features(model: onnx.ModelProto, dense: onnx.ModelProto, inputs: Inputs) -> tuple[str, ...]:
    """What leaves residual blocks of the dense model, and has its name and shape in the other."""
    shapes = {spec.name: (spec.batch or 1, *inputs.sample_shapes[spec.name]) for spec in inputs.specs}
    copy = onnx.ModelProto()
    copy.CopyFrom(dense)
    blocks = analyze(prepare(copy, shapes, lossless=False).network).blocks
    mine, others = infer(model, shapes).shapes, infer(dense, shapes).shapes
    names = dict.fromkeys(block.output for block in blocks)
    return tuple(name for name in names if name in mine and mine[name] == others.get(name))


def _scores(model: onnx.ModelProto, tuned: Tuned, runtime: Runtime) -> tuple[Score, Score]:
    """How good the model is as given and as trained, by the runtime it is for."""

    def score(proto: onnx.ModelProto) -> Score:
        with loadable(proto) as reference:
            session = runtime.open(reference)
        return tuned.held.score(lambda feeds: session.run(feeds, list(tuned.held.dense)))

    before = score(model)
    return before, score(tuned.model) if tuned.model is not None else before
