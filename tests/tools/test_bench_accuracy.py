"""The accuracy benchmark: the figures of others are those of the page, and what was run is not run again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SHARED

sys.path.insert(0, str(ROOT / "tools"))

import bench_accuracy
from accuracy.evidence import Evidence, read_evidence
from accuracy.sweep import Row

PAGE = """# Evidence
Names here: a/b = `first`/`second`, c = `third` of `../real`. No table for c.

## 5. All variants

### a
| variant | MACs % | latency | pred | top-1 | n |
|---|---|---|---|---|---|
| dense | 0.0 | - | - | 90.00 | 100 |
| never_measured | 0.0 | - | - | 1.00 | 100 |
| sim_half | -1.0 | 0.700 | - | 40.00 | 100 |
| tp_slow | -1.0 | 0.930 | - | 70.00 | 100 |
| p_good | -1.0 | 0.800 | 0.7 | 80.00 | 100 |
| p_worse | -1.0 | 0.900 | 0.7 | 75.00 | 100 |
| p_fast | -1.0 | 0.600 | 0.7 | 60.00 | 100 |
| p_bad | -1.0 | 0.790 | 0.7 | 61.00 | 100 |

### b
| variant | latency | top-1 |
|---|---|---|
| dense | - | 50.00 |

Code: nothing | of | this.
"""


@pytest.fixture
def evidence(tmp_path: Path) -> dict[str, Evidence]:
    (tmp_path / "page.md").write_text(PAGE)
    return read_evidence(tmp_path / "page.md")


def test_models_are_named_as_elsewhere(evidence: dict[str, Evidence]) -> None:
    assert list(evidence) == ["first", "second"]
    assert [(p.latency, p.top1) for p in evidence["second"].points] == [(1.0, 50.0)]


@pytest.mark.parametrize(("latency", "top1"), [(0.8, 80), (0.7, 70), (0.9, 85), (1.0, 90), (1.2, 90), (0.6, 60)])
def test_the_prototype_is_interpolated_between_its_best_points(
    evidence: dict[str, Evidence], latency: float, top1: float
) -> None:
    assert evidence["first"].prototype(latency) == pytest.approx(top1)


def test_nobody_is_credited_with_more_speed_than_was_measured(evidence: dict[str, Evidence]) -> None:
    assert evidence["first"].prototype(0.59) is None
    assert evidence["first"].peer(0.65) is None


@pytest.mark.parametrize(("latency", "variant"), [(0.95, "tp_slow"), (0.9, "tp_slow"), (0.88, "sim_half")])
def test_a_peer_is_at_most_as_slow(evidence: dict[str, Evidence], latency: float, variant: str) -> None:
    peer = evidence["first"].peer(latency)
    assert peer
    assert peer.variant == variant


def test_rows_show_a_result_beside_others_or_why_there_is_none(evidence: dict[str, Evidence]) -> None:
    row = Row("first", "default", 64, 70, ratio=0.7, top1=0.8012, removed=2, before=0.5, after=0.02)
    assert bench_accuracy.shown(row, evidence)[4:11] == ("2", "0.700", "80.12", "70.00", "40.00", "0.5", "0.02")
    failed = bench_accuracy.shown(Row("first", "default", 64, 10, reason="no plan is that fast"), evidence)
    assert "no plan is that fast" in failed
    assert len(failed) == len(bench_accuracy._COLUMNS)


@pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="../shared/real is not there")
def test_only_what_is_not_done_is_run() -> None:
    asked = ["resnet20", "vit_tiny", "--budgets", "70,60", "--samples", "64,1000,2000", "--variants", "default"]
    options = bench_accuracy.parse(asked)
    done = [Row("resnet20", "default", 64, 70), Row("resnet20", "default", 1000, 70)]
    done += [Row("resnet20", "default", 1000, 60), Row("resnet20", "default", 2000, 60)]
    found = [(s.model, s.samples, s.budgets) for s in bench_accuracy.sweeps(options, done)]
    assert found[:2] == [("resnet20", 64, (60,)), ("resnet20", 2000, (70,))]
    assert found[2:] == [("vit_tiny", 64, (70, 60)), ("vit_tiny", 500, (70, 60))]


def test_unknown_variants_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench_accuracy.parse(["--variants", "default,better"])
    assert stopped.value.code == 2
    assert "--variants better: choose from default, magnitude" in capsys.readouterr().err
    assert "no recovery" in bench_accuracy.parse(["--variants", "all"]).variants


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="../shared/real is not there")
def test_a_model_is_pruned_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["resnet20", "--budgets", "80,1", "--samples", "64", "--json", str(tmp_path / "rows.json")]
    bench_accuracy.main([*command, "--lut", str(tmp_path / "lut.sqlite")])
    first = capsys.readouterr()
    assert first.err.count("resnet20 default 64") == 2
    bench_accuracy.main([*command, "--lut", str(tmp_path / "lut.sqlite")])
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err == ""


def test_gradients_are_left_out_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_accuracy, "find_spec", lambda name: None)
    options = bench_accuracy.parse(["--variants", "magnitude,taylor"])
    assert options.variants == ["magnitude"]
    assert "taylor is left out: PyTorch is not installed" in capsys.readouterr().err
