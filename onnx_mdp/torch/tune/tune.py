"""From a cut model, the dense one and inputs to the cut model with trained weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from onnx_mdp.errors import ModelError, OptionError
from onnx_mdp.finetune_config import TrainOptions
from onnx_mdp.graph.expose import exposed
from onnx_mdp.graph.weights import raw
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.runtime.base import Session
from onnx_mdp.torch.module import OnnxModule, to_module
from onnx_mdp.torch.tune.augment import check_ways
from onnx_mdp.torch.tune.held_out import HeldOut
from onnx_mdp.torch.tune.loss import Loss
from onnx_mdp.torch.tune.teacher import Kept, Live, keep_outputs, learnable, takes_any_batch, with_free_batch
from onnx_mdp.torch.tune.trainer import Best, Course, Log, Trainer
from onnx_mdp.torch.write_back import write_back

_EPOCHS = 30  # where the user limits neither epochs nor time
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be trained.

    Attributes:
        model: the cut model.
        dense: the dense one.
        session: the dense one, loaded to run.
        train: inputs to train on.
        held: inputs to judge weights by.
        features: tensors of both that are to be matched beside the outputs.
    """

    model: onnx.ModelProto
    dense: onnx.ModelProto
    session: Session
    train: Inputs
    held: Inputs
    features: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Tuned:
    """What came of it: the model with the best weights, None where the given ones are; and what judges both."""

    model: onnx.ModelProto | None
    best: Best
    log: Log
    held: HeldOut


@dataclass(frozen=True, eq=False)
class Watch:
    """Where a training is kept while it runs, and who follows it.

    Attributes:
        checkpoint: written after every epoch; None for nowhere.
        resume: whether to go on from a checkpoint that is there.
        tell: is given what is done, out of how much, and a line about the last epoch.
        warn: is given what the user should know.
    """

    checkpoint: Path | None
    resume: bool
    tell: Callable[[float, float, str], None]
    warn: Callable[[str], None]


def tune(task: Task, options: TrainOptions, watch: Watch) -> Tuned:
    """Train the model towards the dense one's outputs.

    Raises:
        ModelError: an operator or a number type cannot be trained here, or no output can be learned.
        OptionError: labels, augmentation or the device do not fit.
        InputError: the checkpoint is of another training.
    """
    check_ways(options.augment)
    names = learnable(task.session, task.train, [value.name for value in task.model.graph.output])
    held = HeldOut.of(task.held, keep_outputs(task.session, task.held, names))
    with _threads(options.threads):
        student = _module(task.model, [*names, *task.features], options)
        course = _course(task, names, student, held, options)
        if course.inputs.fixed_batch:
            options = replace(options, freeze_norm=True)
            watch.warn(
                f"the graph fixes its batch to {course.micro}: gradients of {course.batch // course.micro} runs add "
                "up, and normalizations keep their running statistics"
            )
        trainer = Trainer(student, course, options, watch.tell)
        identity = _identity(task, held, options)
        if watch.checkpoint and watch.resume and watch.checkpoint.exists():
            trainer.resume(watch.checkpoint, identity)
        trainer.run(watch.checkpoint, identity)
    if trainer.best.state is None:
        return Tuned(None, trainer.best, trainer.log, held)
    student.load_state_dict(trainer.best.state)
    return Tuned(write_back(task.model, student), trainer.best, trainer.log, held)


def _course(task: Task, names: Sequence[str], student: OnnxModule, held: HeldOut, options: TrainOptions) -> Course:
    """What is trained on what, in batches as large as the graphs admit."""
    live = _module(task.dense, [*names, *task.features], options) if options.augment or task.features else None
    inputs, batch = task.train, min(options.batch, task.train.count)
    if inputs.fixed_batch and all(takes_any_batch(module, inputs) for module in (student, live) if module):
        inputs, held = with_free_batch(inputs), replace(held, inputs=with_free_batch(held.inputs))
    micro = inputs.fixed_batch or batch
    teacher = Live(live) if live else Kept(keep_outputs(task.session, task.train, names))
    loss = Loss.like(held.divergence, options.temperature, held.classes)
    minutes = math.inf if options.minutes is None else options.minutes
    epochs = options.epochs or (_EPOCHS if options.minutes is None else math.inf)
    return Course(inputs, teacher, held, loss, micro, max(batch // micro, 1) * micro, epochs, minutes)


def _module(model: onnx.ModelProto, names: Sequence[str], options: TrainOptions) -> OnnxModule:
    """The module that computes these tensors, on the device."""
    module = to_module(exposed(model, names))
    kinds = {parameter.dtype for parameter in module.parameters()}
    if not kinds:
        raise ModelError("the model stores no weight that a gradient reaches: there is nothing to train")
    if halves := [kind for kind in _HALVES if kind in kinds]:
        raise ModelError(f"weights are {halves[0]}: their updates would be lost in rounding; train the float32 model")
    asked = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        moved: OnnxModule = module.to(torch.device(asked))
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"--device {asked}: {str(error).splitlines()[0]}; use --device cpu") from error
    return moved


def _identity(task: Task, held: HeldOut, options: TrainOptions) -> str:
    """What a checkpoint is of: the weights, what the dense model computes of inputs, and how it is trained."""
    labels = None if task.train.labels is None else task.train.labels.tobytes()
    digest = hashlib.sha256(repr((task.train.count, labels)).encode())
    for tensor in task.model.graph.initializer:
        digest.update(tensor.name.encode() + bytes(raw(tensor)))
    for column in held.dense.values():
        digest.update(np.ascontiguousarray(column[np.arange(min(held.inputs.count, 64))]).tobytes())
    given = {name: value for name, value in asdict(options).items() if name in TrainOptions.__dataclass_fields__}
    free = {"epochs", "minutes", "threads", "device", "patience"}
    digest.update(repr(sorted((name, value) for name, value in given.items() if name not in free)).encode())
    return digest.hexdigest()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch's threads, which are the whole process's."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
