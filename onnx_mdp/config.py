"""Options, as the fields of frozen dataclasses.

The command line, the Python functions and the TOML file are all made from these fields, and the help text from these
docstrings, so the three cannot drift apart. Values with units are kept as the user wrote them and parsed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onnx_mdp.errors import OptionError

_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30}
_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}


@Parameter(name="*")
@dataclass(frozen=True)
class Goal:
    """What `prune` is to reach.

    Attributes:
        latency: Budget: a time per run such as `4ms` or `850us`, or a share of the dense model's such as `70%`.
        ratio: Instead of a budget, the share of units every group keeps, such as `50%`: a uniform cut.
    """

    latency: str | None = None
    ratio: str | None = None


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
        inputs: Calibration inputs: `.npz` with one array per model input, or `.npy` for a single input.
        threads: Threads the model will run on.
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable. A symbolic batch alone needs none.
        lock: Leave groups, weights or blocks whose name matches this shell pattern alone; repeatable.
        min_keep: Fewest units a group keeps: a number, or a share such as `25%`.
        multiple: Keep multiples of this many units; by default those the device likes, and 1 for a uniform cut.
        importance: What units are worth: `magnitude`, `activation` (needs --inputs), or `auto`, the best of them.
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
    inputs: Path | None = None
    threads: int = 1
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    lock: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    min_keep: str = "1"
    multiple: int | None = None
    importance: str = "auto"
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
        convert(self, paths=("inputs", "lut"), lists=("shape", "lock", "tie", "runtime_option"))


@Parameter(name="*")
@dataclass(frozen=True)
class PruneOptions(SearchOptions, Goal):
    """How to prune.

    Attributes:
        also: A further latency budget that the same plan meets: `latency=` with what is different there of `runtime=`,
            `threads=`, `shape=` and `runtime-option=`, such as `'runtime=openvino latency=3ms'` or
            `'shape=image:8x3x224x224 latency=60%'`; repeatable.
        output: File to write; the command line's default is the model's name with `-pruned`.
        report: Write a JSON report here.
        plan: Write what was kept here, as JSON in the input model's names; `onnx-mdp apply` repeats it.
        force: Overwrite the input model, and write a --ratio result even if it is slower.
    """

    also: Annotated[tuple[str, ...], Parameter(negative="")] = ()
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
        inputs: Inputs to run on, `.npz` or `.npy`; the first is taken. By default seeded noise.
        threads: Threads the model will run on.
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable. A symbolic batch alone needs none.
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

    inputs: Path | None = None
    threads: int = 1
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
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
        convert(self, paths=("inputs", "lut"), lists=("shape", "lock", "runtime_option"))


@Parameter(name="*")
@dataclass(frozen=True)
class InspectOptions:
    """How to look at a model.

    Attributes:
        shape: Size of a dynamic input, as `name:1x3x224x224`; repeatable.
        lock: Show what locking this shell pattern leaves; repeatable.
        json: Print JSON.
    """

    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
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
        lock: Explain what locking this shell pattern leaves; repeatable.
        json: Print JSON.
    """

    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
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
        runtime: Runtime that is verified with, such as `openvino` or `onnxruntime:cuda`.
        runtime_option: An option of the runtime or its provider as `key=value`; repeatable.
        force: Overwrite the input model.
        quiet: Print nothing but errors.
    """

    output: Annotated[Path | None, Parameter(alias="-o")] = None
    shape: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    runtime: str = "onnxruntime"
    runtime_option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    force: Annotated[bool, Parameter(negative="")] = False
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False

    def __post_init__(self) -> None:
        convert(self, paths=("output",), lists=("shape", "runtime_option"))


def convert(options: object, paths: tuple[str, ...] = (), lists: tuple[str, ...] = ()) -> None:
    """Let Python callers write paths as text, and one pattern without a list around it, in fields of these names."""
    for name in paths:
        value = getattr(options, name)
        object.__setattr__(options, name, Path(value) if isinstance(value, str) else value)
    for name in lists:
        value = getattr(options, name)
        object.__setattr__(options, name, (value,) if isinstance(value, str) else tuple(value))


@dataclass(frozen=True)
class LatencyBudget:
    """A latency to meet: absolute milliseconds, or a share of the dense model's. One of the two is None."""

    text: str
    ms: float | None
    share: float | None

    def spent(self, ms: float, dense_ms: float) -> float:
        """The part of the budget that a measured latency uses up."""
        return ms / self.ms if self.ms else ms / dense_ms / (self.share or 1.0)

    def in_ms(self, dense_ms: float) -> float:
        """The budget in milliseconds."""
        return self.ms or (self.share or 1.0) * dense_ms


def parse_latency(text: str, option: str = "--latency") -> LatencyBudget:
    """A budget such as `4ms`, `850us`, `0.01s` or `70%`.

    Raises:
        OptionError: it is neither, or not positive.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e-?\d+)?)\s*(%|[a-zµ]*)\s*", text, re.IGNORECASE)
    unit = match.group(2).lower() if match else ""
    number = _number(match.group(1)) if match else None
    if number is not None and number <= 0:
        raise OptionError(f"{option} {text}: must be more than zero; write 4ms, 850us, 0.01s or 70%")
    if number is None or (unit != "%" and unit not in _UNITS):
        raise OptionError(f"{option} {text}: not a time or share; write 4ms, 850us, 0.01s or 70%")
    if unit == "%":
        return LatencyBudget(text, None, number / 100)
    return LatencyBudget(text, number * _UNITS[unit], None)


@dataclass(frozen=True)
class Amount:
    """A number of something, or a share of what the dense model has. One of the two is None."""

    number: float | None
    share: float | None

    def of(self, dense: float) -> float:
        """The number, given that of the dense model."""
        return self.number if self.number is not None else (self.share or 0.0) * dense


def parse_amount(text: str, option: str) -> Amount:
    """An amount such as `60%`, `12M`, `1.2G` or, with --size, `20MB`.

    Raises:
        OptionError: it is none of these, or not positive.
    """
    units = _BYTES if option == "--size" else _COUNTS
    match = re.fullmatch(r"\s*([0-9.]+)\s*(%|[a-z]*)\s*", text, re.IGNORECASE)
    number = _number(match.group(1)) if match else None
    unit = match.group(2).upper() if match else ""
    if number is None or number <= 0 or (unit != "%" and unit not in units):
        example = "20MB, 500kB" if option == "--size" else "12M, 1.2G, 500k"
        raise OptionError(f"{option} {text}: not an amount above 0, or a share; write {example} or 60%")
    return Amount(None, number / 100) if unit == "%" else Amount(number * units[unit], None)


def parse_share(text: str, option: str) -> float:
    """A share such as `50%` or `0.5`, above 0 and at most 1.

    Raises:
        OptionError: it is not.
    """
    percent = text.strip().endswith("%")
    number = _number(text.strip().removesuffix("%"))
    share = number / 100 if number is not None and percent else number
    if share is None or not 0 < share <= 1:
        raise OptionError(f"{option} {text}: not a share above 0; write 50% or 0.5")
    return share


def parse_min_keep(text: str) -> tuple[int, float]:
    """Units and share of a `--min-keep` value; the other one is 0.

    Raises:
        OptionError: it is neither a number nor a share.
    """
    if text.strip().isdigit():
        return int(text), 0.0
    try:
        return 0, parse_share(text, "--min-keep")
    except OptionError as error:
        raise OptionError(f"--min-keep {text}: neither a number of units nor a share; write 8 or 25%") from error


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from `name:1x3x224x224`.

    Raises:
        OptionError: a text has another form.
    """
    shapes = {}
    for text in texts:
        match = re.fullmatch(r"(.+):(\d+(?:x\d+)*)", text)
        sizes = tuple(int(size) for size in match.group(2).split("x")) if match else ()
        if not match or 0 in sizes:
            raise OptionError(f"--shape {text}: write name:1x3x224x224")
        shapes[match.group(1)] = sizes
    return shapes


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
