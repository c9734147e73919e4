"""Options of `finetune`; see `onnx_mdp.config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onnx_mdp.config import convert


@Parameter(name="*")
@dataclass(frozen=True)
class TrainOptions:
    """How weights are trained.

    Attributes:
        epochs: Passes over the inputs; 30 by default, with --minutes as many as there is time for.
        minutes: Stop after this many minutes; the learning rate then falls with the time.
        batch: Inputs of one step.
        optimizer: `adamw`, or `sgd` with a momentum of 0.9.
        lr: Highest learning rate: of adamw as a share of the root mean square of each weight, 0.01 by default; of sgd
            as it is, 0.01 by default.
        warmup: Share of the training in which the learning rate rises; it then falls to zero as a cosine.
        weight_decay: Decay of weights; biases and the scales of normalizations have none.
        clip: Longest gradient; a longer one is cut to it. 0 leaves all as they are.
        temperature: What logits are divided by before they are compared; by default 2, or what brings the mean largest
            probability down to 0.8 if that is more.
        features: Match what leaves the residual blocks as well, where it still has the dense model's shape.
        freeze_norm: Leave the running statistics of BatchNormalizations alone, and normalize by them: the model is
            trained in evaluation mode. By default it normalizes by each batch's own, and the running ones follow.
        ema: Decay of the moving average of the weights; 0 keeps none. Theirs or the last weights are chosen.
        augment: Change images each time: `flip` some left to right, `shift` them by up to an eighth; repeatable.
        amp: On a GPU, compute in bfloat16 what suffers little from it.
        held_out: Share of the inputs, or their number, that tells how good weights are and trains none.
        patience: Stop after this many epochs without better weights.
        threads: CPU threads; by default what PyTorch takes.
        device: Where to train, such as `cpu` or `cuda:1`; by default a GPU where there is one.
        seed: Seed of everything random.
    """

    epochs: int | None = None
    minutes: float | None = None
    batch: int = 64
    optimizer: str = "adamw"
    lr: float | None = None
    warmup: str = "5%"
    weight_decay: float = 0.01
    clip: float = 1.0
    temperature: float | None = None
    features: Annotated[bool, Parameter(negative="")] = False
    freeze_norm: Annotated[bool, Parameter(negative="")] = False
    ema: float = 0.99
    augment: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    amp: bool = True
    held_out: str = "10%"
    patience: int = 30
    threads: int | None = None
    device: str | None = None
    seed: int = 0


@Parameter(name="*")
@dataclass(frozen=True)
class FinetuneOptions(TrainOptions):
    """How to fine-tune.

    Attributes:
        dense: The model that this one was cut from: its outputs are what is learned.
        inputs: Inputs to train on, as `prune` takes them: `.npz`, `.npy`, a folder of images (with --preprocess),
            `module:function`, or `synthetic`.
        preprocess: What is done to images, as in `imagenet,size=192`; see `prune`.
        labels: Labels of the inputs, one integer each: `.npy`, `.npz` or text; or `folders`. Their cross-entropy is
            learned as well, and weights are chosen by accuracy.
        samples: Take at most this many inputs, chosen by --seed.
        output: File to write; the command line's default is the model's name with `-tuned`.
        checkpoint: File that says after every epoch how far it is; by default the output's name with `.checkpoint`,
            which is removed in the end.
        resume: Go on from the checkpoint, if it is there.
        report: Write a JSON report here.
        force: Overwrite the input model.
        quiet: Print nothing but errors.
    """

    dense: Path | None = None
    inputs: str | None = None
    preprocess: str | None = None
    labels: str | None = None
    samples: int = 10_000
    output: Annotated[Path | None, Parameter(alias="-o")] = None
    checkpoint: Path | None = None
    resume: Annotated[bool, Parameter(negative="")] = False
    report: Path | None = None
    force: Annotated[bool, Parameter(negative="")] = False
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False

    def __post_init__(self) -> None:
        convert(
            self,
            paths=("dense", "output", "checkpoint", "report"),
            lists=("augment",),
            texts=("inputs", "labels"),
        )
