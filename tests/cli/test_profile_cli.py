"""`onnx-mdp profile`: where the time goes, as text and as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.cli.test_cli import run
from tests.conftest import MODELS
from tests.streams.test_select import post_norm


def test_regions_groups_and_blocks_add_up(capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path) -> None:
    status, out, err = run(capsys, "profile", cnn, "--lut", lut, "--json")
    assert status == 0, err
    assert err == ""
    found = json.loads(out)
    times = [region["ms"] for region in found["regions"]]
    assert times == sorted(times, reverse=True)
    assert sum(times) == pytest.approx(found["sum_ms"])
    assert found["difference"] == pytest.approx(found["sum_ms"] / found["whole_ms"] - 1)
    assert abs(found["difference"]) < 0.5, "the regions are not those of the model"
    assert found["regions"][-1]["cumulative"] == pytest.approx(1)
    assert [r["share"] for r in found["regions"]] == pytest.approx([ms / found["sum_ms"] for ms in times])
    top = found["regions"][0]
    assert "Conv" in top["operators"]
    assert top["groups"]
    assert top["saves_ms"] == pytest.approx(top["ms"] - top["halved_ms"])
    assert 0.2 < top["saves_ms"] / top["ms"] < 0.95, "halving both channels of a convolution saves most of it"
    names = {group["name"]: group for group in found["groups"]}
    assert names["stem"]["units"] == 32
    assert names["stem"]["halved"] == 16
    assert names["stem"]["ms"] == pytest.approx(sum(r["ms"] for r in found["regions"] if "stem" in r["groups"]))
    assert names["stem"]["saves_ms"] > max(g["saves_ms"] for n, g in names.items() if g["units"] == 32 and n != "stem")
    inside = {r["block"] for r in found["regions"]} - {None}
    assert inside == {block["name"] for block in found["blocks"]}
    for block in found["blocks"]:
        mine = [r["ms"] for r in found["regions"] if r["block"] == block["name"]]
        assert block["saves_ms"] == pytest.approx(sum(mine)), "the blocks of this model do not lie in each other"


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path) -> None:
    status, out, err = run(capsys, "profile", cnn, "--lut", lut, "--top", 3, "--quiet")
    assert (status, err) == (0, "")
    assert "regions add up to" in out
    assert "the whole model takes" in out
    assert "more (--top 0 shows all)" in out
    assert "stem" in out
    assert "node_add_40" in out
    _, out, _ = run(capsys, "profile", cnn, "--lut", lut, "--top", 0, "--quiet")
    assert "--top 0" not in out


def chain(build: Callable[..., onnx.ModelProto], widths: list[int], names: str) -> onnx.ModelProto:
    """Convolutions one after the other."""
    nodes, weights = [], {}
    for i, (before, after) in enumerate(pairwise(widths)):
        weights[f"{names}{i}.weight"] = (after, before, 3, 3)
        inputs = [f"{names}x{i}" if i else "x", f"{names}{i}.weight"]
        nodes.append(helper.make_node("Conv", inputs, [f"{names}x{i + 1}"], kernel_shape=[3, 3], pads=[1] * 4))
    return build(nodes, {"x": (1, widths[0], 8, 8)}, [f"{names}x{len(widths) - 1}"], weights)


def test_a_second_model_reuses_the_layers_it_shares(
    capsys: pytest.CaptureFixture[str], build: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    """Of the second model's four layers three have the sizes of the first's, under other names."""
    for name, widths in (("first", [8, 32, 64, 8]), ("second", [8, 32, 64, 48, 8])):
        onnx.save(chain(build, widths, name), str(tmp_path / f"{name}.onnx"))
    arguments = ("--lut", tmp_path / "lut.sqlite", "--json")
    first = json.loads(run(capsys, "profile", tmp_path / "first.onnx", *arguments)[1])["table"]
    assert (first["reused"], first["reused_share"]) == (0, 0)
    assert first["measured"] >= first["entries"] > 0
    second = json.loads(run(capsys, "profile", tmp_path / "second.onnx", *arguments)[1])["table"]
    assert 0.2 < second["reused_share"] < 0.9
    assert second["reused"] == round(second["reused_share"] * second["entries"])
    again = json.loads(run(capsys, "profile", tmp_path / "second.onnx", *arguments)[1])["table"]
    assert (again["reused_share"], again["measured"]) == (1, 0)


def test_what_prune_needs_is_there_after_a_profile(
    capsys: pytest.CaptureFixture[str], vit: Path, lut: Path, tmp_path: Path
) -> None:
    options = ("--lut", lut, "--quiet")
    assert run(capsys, "profile", vit, *options)[0] == 0
    report = tmp_path / "r.json"
    status, _, err = run(
        capsys, "prune", vit, "--latency", "70%", *options, "-o", tmp_path / "o.onnx", "--report", report
    )
    assert status == 0, err
    used = json.loads(report.read_text())["lut"]
    assert used["reused"] > 2 * used["measured"], "only what the plans came near to is left to measure"


def test_options_change_what_is_found(capsys: pytest.CaptureFixture[str], vit: Path, lut: Path, tmp_path: Path) -> None:
    status, out, err = run(capsys, "profile", vit, "--lut", lut, "--lock", "layers.[0-3]*", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert {group["name"].split(".")[1] for group in found["groups"]} == {"4"}
    assert sum(not region["groups"] for region in found["regions"]) > 20
    images = np.load(MODELS / "digits_calibration.npz")
    np.savez(tmp_path / "two.npz", **{name: images[name][:2] for name in images.files})
    config = tmp_path / "mdp.toml"
    config.write_text(f'[profile]\nfill = "in-situ"\njson = true\nlut = "{lut}"\n')
    status, out, err = run(capsys, "profile", vit, "--inputs", tmp_path / "two.npz", "--config", config)
    assert status == 0, err
    assert abs(json.loads(out)["difference"]) < 0.3


def test_streams_are_halved_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], lut: Path, tmp_path: Path
) -> None:
    onnx.save(post_norm(), tmp_path / "model.onnx")
    for streams, units in (("rotate", [16]), ("auto", [])):
        status, out, err = run(capsys, "profile", tmp_path / "model.onnx", "--streams", streams, "--lut", lut, "--json")
        assert status == 0, err
        found = json.loads(out)
        assert [group["units"] for group in found["groups"] if group["kind"] == "normalized"] == units
        names = {name for region in found["regions"] for name in region["operators"]}
        assert "LayerNormalization" in names
        assert "Sqrt" not in names


def test_a_model_with_nothing_to_prune_has_a_profile(
    capsys: pytest.CaptureFixture[str],
    build: Callable[..., onnx.ModelProto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])]
    onnx.save(build(nodes, {"x": (1, 16)}, ["y"], {"w": (16, 8)}), str(tmp_path / "m.onnx"))
    status, out, err = run(capsys, "profile", tmp_path / "m.onnx", "--lut", tmp_path / "lut.sqlite", "--quiet")
    assert status == 0, err
    assert "nothing that can be cut" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["absent.onnx"], 1, "absent.onnx: no such file"),
        (["{}", "--threads", "0"], 1, "--threads 0: must be 1 or more"),
        (["{}", "--multiple", "0"], 1, "--multiple 0: must be 1 or more"),
        (["{}", "--top", "-1"], 1, "--top -1: must be 1 or more, or 0 for all"),
        (["{}", "--fill", "guess"], 1, "--fill guess: choose from isolated, "),
        (["{}", "--precision", "x"], 1, "--precision x: not a share"),
        (["{}", "--min-keep", "x"], 1, "--min-keep x"),
        (["{}", "--runtime", "tea"], 1, "no runtime 'tea'"),
        (["{}", "--shape", "input"], 1, "--shape input: write"),
        (["{}", "--lut-device", "a", "--cluster", "b"], 1, "--lut-device a plans from a table without measuring"),
        (["{}", "--lut-device", "a", "--lut", "absent.sqlite"], 1, "absent.sqlite: no such file"),
        (["{}", "--latency", "4ms"], 2, "--latency"),
        ([], 2, "MODEL"),
    ],
)
def test_errors(
    capsys: pytest.CaptureFixture[str],
    cnn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found, out, err = run(capsys, "profile", *(argument.format(cnn) for argument in arguments))
    assert (found, out) == (status, "")
    assert message in err
    assert status == 2 or len(err.strip().splitlines()) == 1
    assert not (tmp_path / "absent.sqlite").exists()
