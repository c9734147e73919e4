"""What is asked of a plan besides its latency: ties, counts of at most so much, blocks of which few may go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx_mdp.config import PruneOptions, SearchOptions
from onnx_mdp.errors import BudgetError, OptionError
from onnx_mdp.graph.edit import Edits, rewrite
from onnx_mdp.graph.load import Source
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.weights import model_bytes, weight_bytes
from onnx_mdp.groups.count import Count, count_bytes, count_macs, count_parameters
from onnx_mdp.groups.find import Analysis
from onnx_mdp.groups.tie import Ties, find_ties
from onnx_mdp.quantities import parse_amount
from onnx_mdp.rewrite.plan import Plan

_COUNTS = ("parameters", "size", "macs")


@dataclass(frozen=True, eq=False)
class Limit:
    """A count that may not exceed a number.

    Attributes:
        option: what the user wrote, such as `--parameters 60%`.
        count: what counts, as a function of the widths; of removed blocks where it is None.
        most: what it may be.
        dense: what it is for the model as given.
        fixed: what counts besides, whatever is cut.
    """

    option: str
    count: Count | None
    most: float
    dense: float
    fixed: float = 0.0

    def used(self, analysis: Analysis, plan: Plan) -> float:
        """What a plan counts."""
        if self.count is None:
            return len(plan.removed)
        widths = {group.factor: len(plan.kept[group.name]) for group in analysis.groups}
        return self.fixed + self.count.at(analysis, widths, plan.removed)

    def fact(self, analysis: Analysis, plan: Plan) -> dict[str, Any]:
        """Plain data for the report."""
        return {"option": self.option, "most": self.most, "used": self.used(analysis, plan), "dense": self.dense}


@dataclass(frozen=True, eq=False)
class Constraints:
    """Groups of equal widths, and limits."""

    ties: Ties = ()
    limits: Sequence[Limit] = ()

    @property
    def text(self) -> str:
        """The limits as the user wrote them."""
        return " and ".join(limit.option for limit in self.limits)

    def allow_dense(self) -> bool:
        """Whether the model as given is within all limits."""
        return all(limit.dense <= limit.most for limit in self.limits)


def check_constraints(options: SearchOptions) -> None:
    """Fail early on constraints that mean nothing.

    Raises:
        OptionError: a value is malformed.
    """
    if options.max_removed is not None and options.max_removed < 0:
        raise OptionError(f"--max-removed {options.max_removed}: must be 0 or more")
    for name in _COUNTS:
        if (text := getattr(options, name)) is not None:
            parse_amount(text, f"--{name}")


def check_uniform(options: PruneOptions) -> None:
    """Fail early on what means nothing beside --ratio.

    Raises:
        OptionError: a constraint or another device's table stands beside it.
    """
    if options.ratio is None:
        return
    if asked := [name for name in (*_COUNTS, "max_removed", "tie") if getattr(options, name) not in (None, ())]:
        name = asked[0].replace("_", "-")
        raise OptionError(f"--{name} with --ratio: a uniform cut chooses nothing; use --latency (100% for no more)")
    if options.lut_device is not None:
        raise OptionError(
            f"--lut-device {options.lut_device}: --ratio {options.ratio} plans without a table; give --latency"
        )


def find_constraints(options: SearchOptions, analysis: Analysis, source: Source) -> Constraints:
    """The constraints of the options for a model.

    Raises:
        OptionError: a tie names no groups, or groups of different numbers of units.
    """
    limits = []
    if options.parameters is not None:
        limits.append(_limit("--parameters", options.parameters, count_parameters(analysis), source.parameters))
    if options.size is not None:
        whole = rewrite(analysis.network.model, Edits())
        fixed = model_bytes(whole) - weight_bytes(whole)  # nodes, names and all else
        limits.append(_limit("--size", options.size, count_bytes(analysis), source.size, fixed))
    if options.macs is not None:
        dense = sum(node_macs(analysis.network).values())
        limits.append(_limit("--macs", options.macs, count_macs(analysis), dense))
    if options.max_removed is not None:
        limits.append(Limit(f"--max-removed {options.max_removed}", None, options.max_removed, 0))
    return Constraints(find_ties(analysis, options.tie), tuple(limits))


def unreachable(limit: Limit, least: float) -> BudgetError:
    """The error for a limit that no plan meets."""
    return BudgetError(
        f"{limit.option} cannot be reached: the least is {least:,.0f}, {100 * least / limit.dense:.1f}% of the dense "
        f"model's {limit.dense:,.0f}; ask for more, or allow more with a lower --min-keep, a smaller --multiple, fewer "
        "--lock or a higher --max-removed"
    )


def _limit(option: str, text: str, count: Count, dense: float, fixed: float = 0.0) -> Limit:
    return Limit(f"{option} {text}", count, parse_amount(text, option).of(dense), dense, fixed)
