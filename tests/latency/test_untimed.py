"""What is said of table entries that could not be measured."""

from __future__ import annotations

from onnx_mdp.report.facts import untimed


def test_one_line_for_all_entries_of_one_reason() -> None:
    failed = {"Conv [8]\nout %1": "took too long", "Conv [16]\nout %1": "took too long", "Gemm [4]": "crashed"}
    assert untimed(failed) == [
        "a region cannot be timed alone and counts nothing: Conv [8]: took too long (likewise for 1 more entry)",
        "a region cannot be timed alone and counts nothing: Gemm [4]: crashed",
    ]
    assert untimed({}) == []
