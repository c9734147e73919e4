"""Values with units, as users write them: latencies, amounts, shares, shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnx_mdp.errors import OptionError

_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30}
_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}


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


@dataclass(frozen=True)
class Drop:
    """How much of a metric may be lost: `1%` is 0.01 of one between 0 and 1, a plain number is in its own units."""

    text: str
    amount: float
    percent: bool

    def least(self, dense: float) -> float:
        """What is left of the dense model's after the most that may be lost, but for rounding.

        Raises:
            OptionError: the drop is a percentage of what has none, or is all that there is.
        """
        within_one = 0 <= dense <= 1
        if self.percent and not within_one:
            raise OptionError(
                f"--max-drop {self.text}: percent are points of a metric between 0 and 1, and the dense model has "
                f"{dense:.4g}: give the drop in units of the metric, such as 0.5"
            )
        if within_one and self.amount >= 1:
            raise OptionError(
                f"--max-drop {self.text}: allows any loss, as the dense model has {dense:.4g} of a metric between 0 "
                "and 1; write 1% for one point"
            )
        return dense - self.amount - 1e-9


def parse_drop(text: str) -> Drop:
    """A drop of accuracy such as `1%` or `0.5`.

    Raises:
        OptionError: it is none, or below 0.
    """
    number = _number(text.strip().removesuffix("%"))
    if number is None or not 0 <= number < float("inf"):
        raise OptionError(f"--max-drop {text}: not a drop of 0 or more; write 1% for one point of accuracy")
    percent = text.strip().endswith("%")
    return Drop(text, number / 100 if percent else number, percent)


def metric_text(value: float, dense: float) -> str:
    """A value of a metric: in percent where the dense model's lies between 0 and 1."""
    return f"{100 * value:.1f}%" if 0 <= dense <= 1 else f"{value:.4g}"


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
