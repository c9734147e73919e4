"""`onnx-mdp pareto`: the table, the files, and help that teaches."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.test_cli import run


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "pareto", "--help")
    assert status == 0
    options = ("from", "to", "points", "damage-max", "plot", "plans", "output", "json", "inputs", "lut-device", "tie")
    assert all(f"--{option}" in out for option in (*options, "lock", "parameters", "solver", "threads", "config"))
    assert "--latency" not in out.replace("prune model.onnx --latency", "")
    assert "--ratio" not in out
    assert "pareto" in run(capsys, "--help")[1]


def test_the_table_and_the_files(capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path, tmp_path: Path) -> None:
    plans, output = tmp_path / "plans", tmp_path / "f.json"
    span = ("--from", "80%", "--to", "40%", "--points", 3)
    status, out, err = run(capsys, "pareto", cnn, *span, "--lut", lut, "--plans", plans, "-o", output)
    assert status == 0, err
    assert all(text in out for text in ("asked", "80%", "60%", "40%", "damage", "every plan optimal", "written: "))
    assert "dense: " in err
    assert sorted(path.name for path in plans.iterdir()) == ["01.json", "02.json", "03.json"]
    found = json.loads(output.read_text())
    assert [point["asked"] for point in found["points"]] == ["80%", "60%", "40%"]
    assert found["points"][0]["plan"] == str(plans / "01.json")
    status, out, err = run(capsys, "apply", cnn, plans / "02.json", "-o", tmp_path / "half.onnx")
    assert status == 0, err


def test_json_and_nothing_else(capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path) -> None:
    status, out, err = run(capsys, "pareto", cnn, "--damage-max", "0.5", "--lut", lut, "--json")
    assert (status, err) == (0, "")
    (point,) = json.loads(out)["points"]
    assert 0 < point["damage"] <= 0.5
    assert 0 < point["share"] < 1


def test_options_from_a_file(capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path, tmp_path: Path) -> None:
    config = tmp_path / "mdp.toml"
    config.write_text('[pareto]\nfrom = "70%"\nto = "50%"\npoints = 2\n')
    status, out, err = run(capsys, "pareto", cnn, "--config", config, "--lut", lut, "--json")
    assert status == 0, err
    assert [point["asked"] for point in json.loads(out)["points"]] == ["70%", "50%"]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed: pip install 'onnx-mdp[plot]'")
@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_plot(
    capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path, tmp_path: Path, suffix: str, magic: bytes
) -> None:
    path = tmp_path / f"f{suffix}"
    span = ("--from", "80%", "--to", "40%", "--points", 3)
    status, _, err = run(capsys, "pareto", cnn, *span, "--lut", lut, "--plot", path, "-q")
    assert (status, err) == (0, "")
    assert path.read_bytes().startswith(magic)


def test_a_missing_plot_package_names_the_remedy(
    capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    status, out, err = run(capsys, "pareto", cnn, "--plot", tmp_path / "f.svg")
    assert (status, out) == (1, "")
    assert "matplotlib is not installed: pip install 'onnx-mdp[plot]'" in err
    assert not list(tmp_path.iterdir())
