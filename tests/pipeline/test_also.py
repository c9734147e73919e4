"""Several latency budgets: refused where they mean nothing, and met at every place where a result is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest

import onnx_mdp
from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import BudgetError, MdpError, OptionError
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.importance.magnitude import MagnitudeScorer
from onnx_mdp.latency.levels import Floor, Grid, group_levels, sum_levels
from onnx_mdp.latency.regions import find_regions
from onnx_mdp.latency.tables import make_tables
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.sides import parse_also
from onnx_mdp.solve.solve import solve
from tests.conftest import MODELS, analysis_of


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "openvino=3ms",
            r"--also 'openvino=3ms': 'openvino=3ms' is none of latency=, runtime=.*write --also",
        ),
        ("runtime=openvino", r"has no latency= to meet"),
        ("latency=70%", r"has nothing that is different from --latency"),
        ("runtime=openvino latency=fast", r"--also latency= fast: not a time or share"),
        ("threads=0 latency=70%", r"threads=0 must be 1 or more"),
        ("threads=1 threads=2 latency=70%", r"threads= is given 2 times; give it once"),
        ("shape=8x3 latency=70%", r"--shape 8x3: write name:1x3x224x224"),
        ("runtime=abacus latency=70%", r"abacus"),
    ],
)
def test_further_budgets_that_mean_nothing_are_refused(cnn: Path, lut: Path, text: str, message: str) -> None:
    with pytest.raises(MdpError, match=message):
        onnx_mdp.prune(cnn, latency="70%", also=text, lut=lut)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": "50%"}, r"--also 'threads=2 latency=70%': is a budget beside --latency; give that too"),
        ({"latency": "70%", "lut_device": "x"}, r"with --lut-device x: several latencies are measured here"),
        ({"latency": "70%", "cluster": "tcp://a"}, r"with --cluster tcp://a: several latencies are measured here"),
    ],
)
def test_options_that_exclude_further_budgets(cnn: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        onnx_mdp.prune(cnn, also="threads=2 latency=70%", **fields)


def test_what_is_not_named_is_as_in_the_other_options() -> None:
    options = PruneOptions(latency="70%", threads=2, runtime_option=("a=1",), shape=("x:1x3",))
    same = parse_also("shape=x:8x3 runtime-option=b=2 latency=9ms", options).options
    assert (same.runtime, same.threads, same.runtime_option, same.shape) == (
        "onnxruntime",
        2,
        ("a=1", "b=2"),
        ("x:8x3",),
    )
    other = parse_also("runtime=openvino latency=9ms", options).options
    assert (other.runtime, other.threads, other.runtime_option, other.shape) == ("openvino", 2, (), ())


def beside(path: Path, others: Sequence[Program], ms: Callable[[list[int]], float]) -> Program:
    """A program on an analysis of its own, whose table entries are a function of the widths."""
    analysis = analysis_of(path)
    levels = group_levels(analysis, Grid(16, 16), Floor())
    regions = find_regions(analysis)
    sums = sum_levels(regions, levels, Grid(16, 16))
    tables = make_tables(analysis, regions, levels, sums)
    for table in tables:
        for index in itertools.product(*(range(len(axis)) for axis in table.levels)):
            table.known[index] = ms([axis[i] for axis, i in zip(table.levels, index, strict=True)])
    scores = MagnitudeScorer(analysis).score(analysis)
    return Program(analysis, scores, tables, levels, sums, beside=others[-1] if others else None)


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_one_program_for_two_places_is_solved_to_the_optimum(name: str) -> None:
    """Their analyses share no factor; a place where work counts and one where widths do bind together."""
    first = beside(MODELS / name, [], lambda widths: 1e-4 * math.prod(widths))
    second = beside(MODELS / name, [first], lambda widths: 1e-2 * sum(widths))
    limits = 0.6 * first.dense_latency(), 0.75 * second.dense_latency()
    assert first.problem(limits[0], [(second, limits[1])]).choices == first.problem(limits[0]).choices
    answers = [solve(first.problem(limits[0], [(second, limits[1])]), solver) for solver in ("decomposition", "highs")]
    assert answers[0].objective == pytest.approx(answers[1].objective, rel=1e-5)
    for answer in answers:
        assert answer.status == "optimal"
        assert first.sums_of(answer).kept <= limits[0] * (1 + 1e-6)
        assert second.sums_of(answer).kept <= limits[1] * (1 + 1e-6)
    alone = [solve(one.problem(limit)).objective for one, limit in zip((first, second), limits, strict=True)]
    assert max(alone) < answers[0].objective, "one budget alone decides"


def test_a_plan_meets_its_budgets_at_two_batch_sizes(cnn: Path, lut: Path) -> None:
    also = ("shape=input:4x3x32x32 latency=60%",)
    result = onnx_mdp.prune(cnn, latency="80%", also=also, lut=lut, precision="5%", multiple=16)
    (four,) = result.report.also
    one = result.report.latency
    assert four["option"] == "--also 'shape=input:4x3x32x32 latency=60%'"
    assert four["inputs"] == {"input": [4, 3, 32, 32]}
    assert four["pruned_ms"] <= four["budget_ms"] == pytest.approx(0.6 * four["dense_ms"])
    assert one.pruned_ms <= 0.8 * one.dense_ms
    assert four["dense_ms"] > 1.5 * one.dense_ms, "four images take longer than one"
    assert four["spent"] == pytest.approx(four["pruned_ms"] / four["budget_ms"])
    assert parameter_count(result.model) < parameter_count(onnx.load(str(cnn)))
    assert result.report.solve is not None
    assert result.report.solve.gap <= 1e-4


def test_budgets_that_nothing_meets_together(cnn: Path, lut: Path) -> None:
    with pytest.raises(BudgetError, match=r"--latency 80% and --also 'shape=.* latency=1%': .*the lowest predicted"):
        onnx_mdp.prune(cnn, latency="80%", also="shape=input:4x3x32x32 latency=1%", lut=lut, precision="5%")


def test_a_model_that_meets_all_budgets_is_left_whole(cnn: Path, lut: Path) -> None:
    also = "shape=input:4x3x32x32 latency=100%"
    result = onnx_mdp.prune(cnn, latency="100%", also=also, lut=lut, precision="5%")
    assert "with nothing cut" in result.report.reason
    assert parameter_count(result.model) == parameter_count(onnx.load(str(cnn)))
