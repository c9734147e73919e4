"""Values with units."""

from __future__ import annotations

import pytest

from onnx_mdp.config import PruneOptions
from onnx_mdp.quantities import LatencyBudget, parse_latency, parse_min_keep, parse_shapes, parse_share


@pytest.mark.parametrize(
    ("text", "ms", "share"),
    [
        ("4ms", 4.0, None),
        ("850us", 0.85, None),
        ("0.01s", 10.0, None),
        (" 1.5 ms ", 1.5, None),
        ("70%", None, 0.7),
        ("1e-2s", 10.0, None),
    ],
)
def test_latencies(text: str, ms: float | None, share: float | None) -> None:
    assert parse_latency(text) == LatencyBudget(text, pytest.approx(ms) if ms else None, share)


def test_spent_part_of_a_budget() -> None:
    assert parse_latency("4ms").spent(3.0, 10.0) == pytest.approx(0.75)
    assert parse_latency("50%").spent(4.0, 10.0) == pytest.approx(0.8)
    assert parse_latency("50%").in_ms(10.0) == pytest.approx(5.0)


def test_shares_counts_and_shapes() -> None:
    assert parse_share("50%", "--ratio") == parse_share("0.5", "--ratio") == 0.5
    assert parse_min_keep("8") == (8, 0.0)
    assert parse_min_keep("25%") == (0, 0.25)
    assert parse_shapes(("a:b:1x3x4", "c:7")) == {"a:b": (1, 3, 4), "c": (7,)}


def test_options_take_text_for_paths_and_lists() -> None:
    options = PruneOptions(output="a.onnx", lock="stem*", shape=["x:1x3"])  # type: ignore[arg-type]
    assert options.output is not None
    assert options.output.name == "a.onnx"
    assert options.lock == ("stem*",)
    assert options.shape == ("x:1x3",)
