"""The training loop: epochs of steps, weights judged after each, the best ones kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from onnx_mdp.finetune_config import TrainOptions
from onnx_mdp.inputs.base import Array, Inputs
from onnx_mdp.quantities import parse_share
from onnx_mdp.runtime.base import Feeds
from onnx_mdp.torch.module import OnnxModule
from onnx_mdp.torch.tune.augment import augmented
from onnx_mdp.torch.tune.checkpoint import read_checkpoint, write_checkpoint
from onnx_mdp.torch.tune.held_out import HeldOut, Score
from onnx_mdp.torch.tune.loss import Loss
from onnx_mdp.torch.tune.optimizer import make_optimizer
from onnx_mdp.torch.tune.schedule import Pace
from onnx_mdp.torch.tune.teacher import Kept, Live, tensors


@dataclass(frozen=True, eq=False)
class Course:
    """What is trained on what.

    Attributes:
        inputs: those to train on.
        teacher: what is to be learned of them.
        held: judges weights.
        loss: what is made small.
        micro: inputs of one run of the module; steps of more add up gradients.
        batch: inputs of one step.
        epochs: passes over the inputs; infinite where only time ends it.
        minutes: time; infinite where only epochs end it.
    """

    inputs: Inputs
    teacher: Kept | Live
    held: HeldOut
    loss: Loss
    micro: int
    batch: int
    epochs: float
    minutes: float

    @property
    def steps(self) -> int:
        """Steps of an epoch; inputs that do not fill a last one are left out of it."""
        return max(self.inputs.count // self.batch, 1)


@dataclass
class Best:
    """The best weights so far; `state` is None while that is those given."""

    score: Score
    state: dict[str, torch.Tensor] | None = None
    epoch: int = 0
    averaged: bool = False


@dataclass
class Log:
    """What happened: epochs, steps, seconds, each epoch's facts, and why it ended."""

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    ended: str = ""


class Trainer:
    """Trains a module; the module is left with the last weights, `best` has the best.

    Args:
        module: the student, on its device.
        course: what it is trained on.
        options: how.
        tell: is given epochs done, epochs in all (or the like in seconds), and a line about the last.
    """

    def __init__(
        self,
        module: OnnxModule,
        course: Course,
        options: TrainOptions,
        tell: Callable[[float, float, str], None],
    ) -> None:
        self.module, self.course, self.options, self.tell = module, course, options, tell
        self.device = next(module.parameters()).device
        self.optimizer = make_optimizer(options.optimizer, module, options.lr, options.weight_decay)
        self.average = _average(module, options.ema) if options.ema else None
        warmup = parse_share(options.warmup, "--warmup")
        self.pace = Pace(course.epochs * course.steps, course.minutes * 60, warmup)
        self.schedule = LambdaLR(self.optimizer, self.pace.factor)
        self.log = Log()
        self.best = Best(self.judged(module))

    def judged(self, module: torch.nn.Module) -> Score:
        """The score of a module's weights."""
        count = len(self.course.held.dense)
        module.eval()

        def run(feeds: Feeds) -> Sequence[Array]:
            with torch.no_grad(), self._autocast():
                found = list(module(tensors(feeds, self.device)).values())[:count]
            return [(v.float() if v.dtype == torch.bfloat16 else v).cpu().numpy() for v in found]

        return self.course.held.score(run)

    def run(self, checkpoint: Path | None, identity: str) -> None:
        """Train to the end, from wherever the log says it is."""
        with torch.random.fork_rng():
            while not self._is_over():
                losses = self._epoch(self.log.epochs)
                self.log.epochs += 1
                self._judge(losses)
                if checkpoint:
                    write_checkpoint(checkpoint, {"run": identity, **self._state()})

    def resume(self, checkpoint: Path, identity: str) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it is none of this training.
        """
        content = read_checkpoint(checkpoint, identity)
        for name, part in self._parts():
            part.load_state_dict(content[name])
        self.log = Log(**{**content["log"], "ended": ""})
        self.pace.spent = self.log.seconds
        best = content["best"]
        self.best = Best(**{**best, "score": Score(**best["score"])})

    def _state(self) -> dict[str, Any]:
        best = {"score": asdict(self.best.score), "epoch": self.best.epoch, "averaged": self.best.averaged}
        parts = {name: part.state_dict() for name, part in self._parts()}
        return {**parts, "log": asdict(self.log), "best": {**best, "state": self.best.state}}

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield from (("module", self.module), ("optimizer", self.optimizer), ("schedule", self.schedule))
        if self.average is not None:
            yield "average", self.average

    def _is_over(self) -> bool:
        stale = self.log.epochs - self.best.epoch
        if not self.log.ended and stale >= self.options.patience:
            self.log.ended = f"{stale} epochs without better weights"
        return bool(self.log.ended) or self.log.epochs >= self.course.epochs or self.pace.is_over

    def _epoch(self, number: int) -> list[float]:
        """Train on every input once; returns the loss of every step."""
        course = self.course
        seeds = np.random.SeedSequence([self.options.seed, number])
        rng = np.random.default_rng(seeds)
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self.module.train(not self.options.freeze_norm)
        order = rng.permutation(course.inputs.count)
        losses: list[float] = []
        for start in range(0, course.steps * course.batch, course.batch):
            loss = self._step(order[start : start + course.batch], rng)
            if not math.isfinite(loss):
                self.log.ended = f"a loss that is not finite in step {self.log.steps + 1}"
                break
            losses.append(loss)
            if self.pace.is_over:
                break
        return losses

    def _step(self, places: Array, rng: np.random.Generator) -> float:
        """One step of the optimizer; returns the loss, or infinity where a gradient is not finite."""
        self.optimizer.zero_grad()
        total = 0.0
        for start in range(0, len(places), self.course.micro):
            chunk = places[start : start + self.course.micro]
            loss = self._loss(chunk, rng) * (len(chunk) / len(places))
            loss.backward()
            total += loss.item()
        clip = self.options.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), clip)
        if not math.isfinite(total + float(norm)):
            return math.inf
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        self.log.steps += 1
        return total

    def _loss(self, places: Array, rng: np.random.Generator) -> torch.Tensor:
        chosen = self.course.inputs.pick(places)
        feeds = tensors(augmented(chosen.first(len(places)), self.options.augment, rng), self.device)
        labels = None if chosen.labels is None else torch.from_numpy(chosen.labels).to(self.device)
        with self._autocast():
            dense = self.course.teacher.targets(feeds, places)
            found = list(self.module(feeds).values())
        return self.course.loss(found, dense, labels)

    def _judge(self, losses: Sequence[float]) -> None:
        """Note what an epoch brought, and keep weights that are better than all before."""
        candidates = [(self.module, False), *([(self.average.module, True)] if self.average is not None else [])]
        for module, averaged in candidates:
            score = self.judged(module)
            if score.beats(self.best.score):
                state = {name: values.detach().cpu().clone() for name, values in module.state_dict().items()}
                self.best = Best(score, state, self.log.epochs, averaged)
        best, loss = self.best, math.fsum(losses) / max(len(losses), 1)
        self.log.seconds = self.pace.elapsed
        facts = {"epoch": self.log.epochs, "seconds": self.log.seconds, "loss": loss, "best": asdict(best.score)}
        self.log.history.append({**facts, "lr": self.schedule.get_last_lr()[0]})
        timed = math.isfinite(self.course.minutes)
        done, total = (self.log.seconds, 60 * self.course.minutes) if timed else (self.log.epochs, self.course.epochs)
        self.tell(done, total, f"epoch {self.log.epochs}: loss {loss:.3g}, best held-out {_text(best.score)}")

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        """In bfloat16 on a GPU that has it."""
        enabled = self.options.amp and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            yield


def _average(module: OnnxModule, decay: float) -> Any:
    """A moving average of weights, over few steps as long as there are few; running statistics are the last ones."""

    def averaged(mean: torch.Tensor, new: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        return mean.lerp(new, max(1 - decay, 9 / (10 + int(count))))

    return AveragedModel(module, avg_fn=averaged)


def _text(score: Score) -> str:
    accuracy = "" if score.accuracy is None else f"{100 * score.accuracy:.1f}% right, "
    return f"{accuracy}{score.divergence:.3g}"
