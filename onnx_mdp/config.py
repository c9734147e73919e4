"""Options, as the fields of frozen dataclasses.

The command line, the Python functions and the TOML file are all made from these fields, and the help text from these
docstrings, so the three cannot drift apart. Values with units are kept as the user wrote them and parsed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Goal:
    """What `prune` is to reach.

    Attributes:
        latency: Budget: a time per run such as `4ms` or `850us`, or a share of the dense model's such as `70%`.
        ratio: Instead of a budget, the share of units every group keeps, such as `50%`: a uniform cut.
        max_drop: Instead of a budget, the accuracy that the fastest model may lose: `1%` is one point of an accuracy
            between 0 and 1, and `0.5` as much of any other metric. Needs --labels or --eval.
    """

    latency: str | None = None
    ratio: str | None = None
    max_drop: str | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class SearchOptions:
    """How plans are searched for: what `prune` and `pareto` share.

    Attributes:
        parameters: Keep at most this many parameters: a number such as `12M`, or a share such as `60%`.
        size: Keep at most this many bytes: `20MB`, or a share such as `60%`.
        macs: Keep at most this many multiply-accumulates: `1.2G`, or a share such as `60%`.
        max_removed: Remove at most this many blocks.
        tie: Keep equally many units of all groups whose name matches this shell pattern; repeatable.
        inputs: Calibration inputs: `.npz` with one array per model input, `.npy` for a single input, a folder of images
            (with --preprocess), `module:function` that yields feeds, or `synthetic` where there is nothing else.
        preprocess: What is done to images: a preset (`imagenet`, `inception`, `vit`, `clip`, `caffe`, `cifar`, `mnist`,
            `unit`, `raw`), fields, or both, as in `imagenet,size=192,layout=nhwc`. Fields: `resize=256` or `256x192`,
            `size=224` (center crop), `filter=bicubic`, `range=255`, `mean=0.485/0.456/0.406`, `std=...`,
            `channels=bgr`, `layout=nhwc`.
        labels: Labels of the inputs, one integer each: `.npy`, `.npz` or text; or `folders` for images in one folder
            per class.
        samples: Take at most this many inputs, chosen by --seed; by default all of arrays, and 256 of anything else.
        threads: Threads the model will run on.
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable. A symbolic batch alone needs none.
        lock: Leave groups, weights or blocks whose name matches this shell pattern alone; repeatable.
        lossless: First rewrite the model to compute the same faster: nothing for tokens not read, no padded shortcuts.
        streams: What becomes of streams that layer normalizations read: `rotate` turns them to their principal
            directions, which changes no result, so that the weakest can go, and of those that cannot be turned lets
            single units go, whose statistics are then missing; `keep` leaves all of them whole; `auto` is `rotate`
            where there are --inputs to choose by, else `keep`.
        min_keep: Fewest units a group keeps: a number, or a share such as `25%`.
        multiple: Keep multiples of this many units; by default those the device likes, and 1 for a uniform cut.
        importance: What units are worth: `magnitude`, or with --inputs `activation`, `reconstruction` or, with PyTorch,
            `taylor`; `auto` is the best that needs no PyTorch.
        effort: How well damage is known, with --inputs: `fast` estimates it at each layer, `balanced` measures it at
            the outputs, `thorough` at more widths on more inputs.
        recover: With --inputs, fit the remaining weights anew to what the dense model computes.
        solver: `decomposition`; or one linear program in `highs`, `gurobi`, `scip`, or `auto`: Gurobi where its
            licence admits the size, else HiGHS.
        runtime: What the model will run on and is measured with: `onnxruntime`, `openvino` or `tensorrt`, with a
            provider where needed: `onnxruntime:cuda`, `onnxruntime:tensorrt`, `onnxruntime:openvino`,
            `onnxruntime:tensorrt-rtx`, or any other that onnxruntime has.
        runtime_option: An option of the runtime or its provider as `key=value`, such as `fp16=true`, `device_id=1` or
            `plugin=PACKAGE` for a provider that a package or file brings to onnxruntime; repeatable.
        seed: Seed of everything random.
        fill: How the table is filled: `isolated` times pieces of the model, `in-situ` profiles whole ones, `exhaustive`
            times every piece at every width, or `auto`, the most exact way for its time.
        precision: How precisely latencies are measured: half-width of the 95 % interval, as a share.
        lut: Latency table file; by default one per user, shared by all models.
        lut_device: Plan for another device from its rows in the table: its fingerprint, or a part that fits no other.
        cluster: Measure on the like workers of a Dask cluster: the scheduler's address, such as `tcp://10.0.0.1:8786`.
        quiet: Print nothing but errors.
    """

    parameters: str | None = None
    size: str | None = None
    macs: str | None = None
    max_removed: int | None = None
    tie: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    inputs: str | None = None
    preprocess: str | None = None
    labels: str | None = None
    samples: int | None = None
    threads: int = 1
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    lock: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    lossless: bool = True
    streams: str = "auto"
    min_keep: str = "1"
    multiple: int | None = None
    importance: str = "auto"
    effort: str = "balanced"
    recover: bool = True
    solver: str = "decomposition"
    runtime: str = "onnxruntime"
    runtime_option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    seed: int = 0
    fill: str = "auto"
    precision: str = "2%"
    lut: Path | None = None
    lut_device: str | None = None
    cluster: str | None = None
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False

    def __post_init__(self) -> None:
        convert(self, paths=("lut",), lists=("shape", "lock", "tie", "runtime_option"), texts=("inputs", "labels"))


@Parameter(name="*")
@dataclass(frozen=True)
class PruneOptions(SearchOptions, Goal):
    """How to prune.

    Attributes:
        also: A further latency budget that the same plan meets: `latency=` with what is different there of `runtime=`,
            `threads=`, `shape=` and `runtime-option=`, such as `'runtime=openvino latency=3ms'` or
            `'shape=image:8x3x224x224 latency=60%'`; repeatable.
        eval: How good a model is at its task, measured before and after: `module:function`, called with the path of an
            .onnx file, returns a number that is higher where better. By default top-1, where inputs have labels.
        output: File to write; the command line's default is the model's name with `-pruned`.
        report: Write a JSON report here.
        plan: Write what was kept here, as JSON in the input model's names; `onnx-mdp apply` repeats it.
        force: Overwrite the input model, and write a --ratio result even if it is slower.
    """

    also: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    eval: str | None = None
    output: Annotated[Path | None, Parameter(alias="-o")] = None
    report: Path | None = None
    plan: Path | None = None
    force: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, paths=("output", "report", "plan"), lists=("also",))


@Parameter(name="*")
@dataclass(frozen=True)
class ProfileOptions:
    """How to find where the time goes.

    Attributes:
        inputs: Inputs to run on, as `prune` takes them; only the first are used. By default seeded noise.
        preprocess: What is done to images, as in `imagenet,size=192`; see `prune`.
        samples: Read at most this many inputs; by default all of arrays, and 256 of anything else.
        threads: Threads the model will run on.
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable. A symbolic batch alone needs none.
        lossless: First rewrite the model to compute the same faster: nothing for tokens not read, no padded shortcuts.
        streams: Whether streams that layer normalizations read can be cut: `rotate`, `keep`, or `auto` for with
            --inputs; see `prune`.
        lock: Leave groups, weights or blocks whose name matches this shell pattern alone; repeatable.
        min_keep: Fewest units a group keeps: a number, or a share such as `25%`.
        multiple: Keep multiples of this many units; by default what the device is found to like.
        runtime: What is measured, such as `openvino` or `onnxruntime:cuda`.
        runtime_option: An option of the runtime or its provider as `key=value`; repeatable.
        seed: Seed of everything random.
        fill: How the table is filled: `isolated` times pieces of the model, `in-situ` profiles whole ones, `exhaustive`
            times every piece at every width, or `auto`, the most exact way for its time.
        precision: How precisely latencies are measured: half-width of the 95 % interval, as a share.
        lut: Latency table file; by default one per user, shared by all models.
        lut_device: Show another device from its rows in the table: its fingerprint, or a part that fits no other.
        cluster: Measure on the like workers of a Dask cluster: the scheduler's address, such as `tcp://10.0.0.1:8786`.
        top: Rows to show of each table; 0 for all.
        json: Print JSON, with all regions, groups and blocks.
        quiet: Show no progress.
    """

    inputs: str | None = None
    preprocess: str | None = None
    samples: int | None = None
    threads: int = 1
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    lossless: bool = True
    streams: str = "auto"
    lock: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    min_keep: str = "1"
    multiple: int | None = None
    runtime: str = "onnxruntime"
    runtime_option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    seed: int = 0
    fill: str = "auto"
    precision: str = "2%"
    lut: Path | None = None
    lut_device: str | None = None
    cluster: str | None = None
    top: int = 12
    json: Annotated[bool, Parameter(negative="")] = False
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False

    def __post_init__(self) -> None:
        convert(self, paths=("lut",), lists=("shape", "lock", "runtime_option"), texts=("inputs",))


@Parameter(name="*")
@dataclass(frozen=True)
class InspectOptions:
    """How to look at a model.

    Attributes:
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable.
        lossless: First rewrite the model to compute the same faster: nothing for tokens not read, no padded shortcuts.
        lock: Show what locking this shell pattern leaves; repeatable.
        json: Print JSON.
    """

    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    lossless: bool = True
    lock: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    json: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        convert(self, lists=("shape", "lock"))


@Parameter(name="*")
@dataclass(frozen=True)
class ExplainOptions:
    """How to explain a model.

    Attributes:
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable.
        lossless: First rewrite the model to compute the same faster: nothing for tokens not read, no padded shortcuts.
        lock: Explain what locking this shell pattern leaves; repeatable.
        json: Print JSON.
    """

    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    lossless: bool = True
    lock: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    json: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        convert(self, lists=("shape", "lock"))


@Parameter(name="*")
@dataclass(frozen=True)
class BenchOptions:
    """How to compare latencies.

    Attributes:
        threads: Threads the models run on.
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable.
        seconds: Time to spend on each model.
        runtime: Runtime to measure with, such as `openvino` or `onnxruntime:cuda`.
        runtime_option: An option of the runtime or its provider as `key=value`; repeatable.
        json: Print JSON.
    """

    threads: int = 1
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    seconds: float = 2.0
    runtime: str = "onnxruntime"
    runtime_option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    json: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        convert(self, lists=("shape", "runtime_option"))


@Parameter(name="*")
@dataclass(frozen=True)
class ApplyOptions:
    """How to repeat a cut.

    Attributes:
        output: File to write; the command line's default is the model's name with `-pruned`.
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable.
        lossless: First rewrite the model to compute the same faster: nothing for tokens not read, no padded shortcuts.
        runtime: Runtime that is verified with, such as `openvino` or `onnxruntime:cuda`.
        runtime_option: An option of the runtime or its provider as `key=value`; repeatable.
        force: Overwrite the input model.
        quiet: Print nothing but errors.
    """

    output: Annotated[Path | None, Parameter(alias="-o")] = None
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    lossless: bool = True
    runtime: str = "onnxruntime"
    runtime_option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    force: Annotated[bool, Parameter(negative="")] = False
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False

    def __post_init__(self) -> None:
        convert(self, paths=("output",), lists=("shape", "runtime_option"))


def convert(
    options: object, paths: tuple[str, ...] = (), lists: tuple[str, ...] = (), texts: tuple[str, ...] = ()
) -> None:
    """Let Python callers write paths as text, texts as paths, and one pattern without a list, in the named fields."""
    for name in paths:
        value = getattr(options, name)
        object.__setattr__(options, name, Path(value) if isinstance(value, str) else value)
    for name in texts:
        value = getattr(options, name)
        object.__setattr__(options, name, str(value) if isinstance(value, Path) else value)
    for name in lists:
        value = getattr(options, name)
        object.__setattr__(options, name, (value,) if isinstance(value, str) else tuple(value))
