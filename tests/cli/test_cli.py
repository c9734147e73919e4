"""The command line: exit statuses, one-line errors, help that teaches, the same options from a TOML file."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from _pytest.mark import ParameterSet
from PIL import Image

from onnx_mdp import __version__
from onnx_mdp.cli.main import main
from onnx_mdp.runtime.registry import remedy
from tests.conftest import MODELS, ROOT


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(command in out for command in ("prune", "inspect", "explain", "bench", "apply", "solve", "finetune"))
    status, out, _ = run(capsys, "prune", "--help")
    assert status == 0
    options = ("latency", "ratio", "output", "inputs", "threads", "shape", "lock", "min-keep", "multiple", "importance")
    options += ("preprocess", "labels", "samples", "max-drop", "eval")
    options += ("runtime", "runtime-option", "solver", "seed", "report", "plan", "lut", "quiet", "config", "force")
    assert all(f"--{option}" in out for option in options)
    assert "4ms" in out
    assert "70%" in out
    status, out, _ = run(capsys, "explain", "--help")
    assert status == 0
    assert all(f"--{option}" in out for option in ("shape", "lock", "json", "config"))
    assert "layers.0.attn.qkv/head" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].strip() == __version__


@pytest.mark.parametrize(
    "arguments",
    [["prune"], ["prune", "m.onnx", "--latncy", "4ms"], ["prune", "m.onnx", "--threads", "x"], ["bench"], ["nothing"]],
)
def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err


@pytest.mark.parametrize(
    "command", [["prune", "{}", "--latency", "70%"], ["inspect", "{}"], ["explain", "{}"], ["bench", "{}"]]
)
def test_user_errors_are_one_line_and_exit_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model")
    status, out, err = run(capsys, *(part.format("text.onnx") for part in command))
    assert status == 1
    assert out == ""
    assert err.startswith("error: text.onnx: not an ONNX model")
    assert len(err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["text.onnx"]


def test_prune_prints_a_summary_and_writes(
    capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "prune", cnn, "--latency", "80%", "--lut", lut)
    assert status == 0, err
    assert (tmp_path / "digits_cnn-pruned.onnx").exists()
    for word in ("latency", "parameters", "size", "budget: 80%", "removed blocks", "proof: equals the masked original"):
        assert word in out
    assert "round 1: predicted" in err
    status, out, _ = run(capsys, "bench", cnn, "digits_cnn-pruned.onnx", "--seconds", "0.2", "--json")
    assert status == 0
    dense, pruned = json.loads(out)
    assert dense["ratio"] == 1
    assert pruned["ratio"] < 1
    assert pruned["parameters"] < dense["parameters"]


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str], cnn: Path, lut: Path, tmp_path: Path) -> None:
    status, out, err = run(capsys, "prune", cnn, "--ratio", "50%", "-o", tmp_path / "o.onnx", "--quiet")
    assert (status, out, err) == (0, "", "")


def test_options_from_a_file(capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path) -> None:
    config = tmp_path / "mdp.toml"
    config.write_text(f'[prune]\nratio = "50%"\noutput = "{tmp_path / "o.onnx"}"\nlock = ["stem*"]\n')
    status, _, err = run(capsys, "prune", cnn, "--config", config, "--report", tmp_path / "r.json")
    assert status == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["options"]["ratio"] == "50%"
    assert report["options"]["lock"] == ["stem*"]
    assert (tmp_path / "o.onnx").exists()


def test_command_line_wins_over_the_file(capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path) -> None:
    config = tmp_path / "mdp.toml"
    config.write_text('[prune]\nratio = "50%"\n')
    report = tmp_path / "r.json"
    run(capsys, "prune", cnn, "--config", config, "--ratio", "75%", "-o", tmp_path / "o.onnx", "--report", report)
    assert json.loads(report.read_text())["options"]["ratio"] == "75%"


def test_unknown_key_in_the_file_is_wrong_usage(capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path) -> None:
    config = tmp_path / "mdp.toml"
    config.write_text('[prune]\nlatncy = "50%"\n')
    status, _, err = run(capsys, "prune", cnn, "--config", config)
    assert status == 2
    assert "latncy" in err
    status, _, err = run(capsys, "prune", cnn, "--config", tmp_path / "absent.toml")
    assert status == 1
    assert "no such file" in err


def test_inspect_as_text_and_json(capsys: pytest.CaptureFixture[str], vit: Path) -> None:
    status, out, _ = run(capsys, "inspect", vit)
    assert status == 0
    assert "layers.0.attn.qkv/head" in out
    assert "statistics" in out
    assert "prunable: 463,680 parameters (96.8%)" in out
    assert "what locks the rest" in out
    status, out, _ = run(capsys, "inspect", vit, "--json")
    found = json.loads(out)
    assert {group["kind"] for group in found["groups"]} == {"head", "qk", "v", "hidden"}
    assert len(found["blocks"]) == 10
    (stream,) = [entry for entry in found["locked"] if entry["units"] == 96]
    assert "its statistics are taken over it (LayerNormalization" in stream["reasons"][0]
    assert found["unknown_operators"] == {}
    share = found["prunable"]
    assert share["parameters_share"] == share["parameters"] / share["parameters_total"]
    assert 0.9 < share["macs_share"] == share["macs"] / share["macs_total"] < 1
    first, *rest = found["locked_by"]
    assert first["reason"] == "its statistics are taken over it"
    assert first["example"].startswith("LayerNormalization")
    assert all(first["parameters"] >= row["parameters"] > 0 for row in rest)


def test_inspect_says_what_moved(capsys: pytest.CaptureFixture[str], vit: Path) -> None:
    assert "lossless: moved node_select before" in run(capsys, "inspect", vit)[1]
    assert "lossless: moved" not in run(capsys, "inspect", vit, "--no-lossless")[1]


def test_explain_lists_every_node_with_its_rule_and_axes(capsys: pytest.CaptureFixture[str], cnn: Path) -> None:
    status, out, _ = run(capsys, "explain", cnn)
    assert status == 0
    assert "node_relu  Relu: x[a,b,c,d] -> y[a,b,c,d]; zero x\n    relu [1, stem, !32, !32]\n" in out
    status, out, _ = run(capsys, "explain", cnn, "--json")
    nodes = json.loads(out)["nodes"]
    assert len(nodes) == len(onnx.load(str(cnn)).graph.node)
    assert {"name", "op", "rule", "refusal", "outputs"} == set(nodes[0])


def test_explain_a_tensor_a_group_and_a_locked_dimension(capsys: pytest.CaptureFixture[str], vit: Path) -> None:
    status, out, _ = run(capsys, "explain", vit, "layers.0.attn.qkv.bias")
    assert status == 0
    assert "axis 0: 288 = [(layers.0.attn.qkv/head layers.0.attn.qkv/qk) + " in out
    assert "node_linear  Add: x1[a,b,c] x2[c] -> y[a,b,c]" in out
    _, out, _ = run(capsys, "explain", vit, "layers.0.attn.qkv/head")
    assert "head, 6 units" in out
    assert "in removable block node_add_99" in out
    assert "48 positions a unit" in out
    _, out, _ = run(capsys, "explain", vit, "patch")
    assert "locked dimension patch: 96 units may not be cut" in out
    assert "LayerNormalization node_layer_norm_10" in out
    _, out, _ = run(capsys, "explain", vit, "patch", "--json")
    found = json.loads(out)
    assert (found["tensor"], found["group"], len(found["locked"])) == (None, None, 2)
    assert found["locked"][1]["reasons"] == [{"reason": "it is a graph input", "node": "input"}]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("layers.0.fc1.bais", "the nearest are layers.0.fc1.bias"),
        ("QKV", "the nearest are layers.0.attn.qkv/v"),
        ("zzz", "without a name, explain lists every tensor"),
        ("node_add_99", "is a node; ask for what it computes: add_99"),
    ],
)
def test_explain_of_an_unknown_name_gives_the_nearest(
    capsys: pytest.CaptureFixture[str], vit: Path, name: str, hint: str
) -> None:
    status, out, err = run(capsys, "explain", vit, name)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {vit}: ")
    assert repr(name) in err
    assert hint in err
    assert len(err.strip().splitlines()) == 1


def test_explain_takes_options_from_a_file(capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path) -> None:
    config = tmp_path / "mdp.toml"
    config.write_text('[explain]\nlock = ["stem"]\njson = true\n')
    status, out, err = run(capsys, "explain", cnn, "relu", "--config", config)
    assert status == 0, err
    assert json.loads(out)["tensor"]["factors"][0]["reasons"] == [{"reason": "it is locked by request", "node": "stem"}]


def test_apply_writes_and_says_so(capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    run(capsys, "prune", cnn, "--ratio", "50%", "-o", tmp_path / "a.onnx", "--plan", plan)
    status, out, _ = run(capsys, "apply", cnn, plan, "-o", tmp_path / "b.onnx")
    assert status == 0
    assert "equals the masked original" in out
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_options_of_the_runtime_reach_it(capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path) -> None:
    bench = ["bench", cnn, "--seconds", "0.01"]
    good = ["--runtime-option", "session.disable_prepacking=1", "--runtime-option", "session.use_mimalloc=0"]
    assert run(capsys, *bench, *good)[0] == 0
    for command in (bench, ["prune", cnn, "--ratio", "50%"], ["apply", cnn, write_plan(cnn, tmp_path)]):
        more = [] if command is bench else ["-o", tmp_path / "out.onnx"]
        status, _, err = run(capsys, *command, *more, *good, "--runtime-option", "use_tf32=0")
        assert (status, err.count("\n")) == (1, 1)
        assert "--runtime-option use_tf32: onnxruntime's CPU provider has no such option" in err
    config = tmp_path / "mdp.toml"
    config.write_text('[bench]\nruntime-option = ["session.disable_prepacking=1", "fp16=true"]\n')
    status, _, err = run(capsys, *bench, "--config", config)
    assert status == 1
    assert "--runtime-option fp16" in err


def write_plan(model: Path, folder: Path) -> Path:
    """A plan file of the model."""
    plan = folder / "plan.json"
    assert main(["prune", str(model), "--ratio", "50%", "-o", str(folder / "p.onnx"), "--plan", str(plan), "-q"]) == 0
    return plan


@pytest.mark.parametrize("name", ["openvino", "tensorrt", "onnxruntime:cuda", "onnxruntime:tensorrt-rtx"])
def test_a_missing_runtime_is_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str], cnn: Path, tmp_path: Path, name: str
) -> None:
    if not remedy(name):
        pytest.skip(f"{name} is installed")
    for command in (["bench", cnn], ["prune", cnn, "--latency", "70%", "-o", tmp_path / "out.onnx"]):
        status, _, err = run(capsys, *command, "--runtime", name)
        assert (status, err.count("\n")) == (1, 1)
        assert remedy(name) in err


def test_interrupt_says_that_measurements_are_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnx_mdp", "prune", str(MODELS / "digits_cnn.onnx"), "--latency", "60%"]
    command += ["--lut", str(tmp_path / "lut.sqlite"), "-o", str(tmp_path / "o.onnx")]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # even where the tests run in the background
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listens)
    assert running.stderr is not None
    running.stderr.readline()  # the dense model is measured, the fill begins
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.strip() == "interrupted; finished measurements are kept"
    assert not (tmp_path / "o.onnx").exists()


def test_module_runs_as_a_program() -> None:
    result = subprocess.run([sys.executable, "-m", "onnx_mdp", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == __version__


def readme_problem() -> str:
    """The program that the README shows."""
    return (ROOT / "README.md").read_text().split("```json\n")[1].split("```")[0]


def readme_function(name: str) -> str:
    """A Python file that the README shows."""
    return (ROOT / "README.md").read_text().split(f"`{name}` above is\n\n```python\n")[1].split("```")[0]


def write_photos(folder: Path) -> None:
    """A few photographs' worth of files."""
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


def readme_commands() -> list[str]:
    """Commands in the README's console blocks that start with onnx-mdp."""
    lines = (ROOT / "README.md").read_text().splitlines()
    return [line[2:] for line in lines if line.startswith("$ onnx-mdp")]


def _is_slow(command: str) -> bool:
    return any(word in command for word in ("--max-drop", "--runtime", " pareto ", "--parameters"))


def commands_to_run() -> list[ParameterSet | str]:
    """The README's commands; the slow tests run those that prune several times, or on a runtime that loads slowly."""
    slow = pytest.mark.slow
    return [pytest.param(line, marks=slow) if _is_slow(line) else line for line in readme_commands()]


@pytest.mark.parametrize("command", commands_to_run())
def test_readme_commands_run(
    capsys: pytest.CaptureFixture[str], command: str, lut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command the README shows runs, in a folder that holds what the README's reader has."""
    words = shlex.split(command)
    missing = remedy(words[words.index("--runtime") + 1]) if "--runtime" in words else ""
    if missing:
        pytest.skip(missing)
    if ("taylor" in words or "finetune" in words) and find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install 'onnx-mdp[torch]'")
    if "--plot" in words and find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed: pip install 'onnx-mdp[plot]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(lut.parent.parent))
    (tmp_path / "models").symlink_to(MODELS)
    (tmp_path / "problem.json").write_text(readme_problem())
    for name in ("mydata.py", "mytask.py"):
        (tmp_path / name).write_text(readme_function(name))
    write_photos(tmp_path / "photos")
    if not command.startswith("onnx-mdp prune"):
        first = ["prune", "models/digits_vit.onnx", "--ratio", "50%", "-o", "pruned.onnx", "--plan", "plan.json"]
        assert main([*first, "--quiet"]) == 0
    if command.startswith("onnx-mdp lut"):
        assert main(["profile", "models/digits_vit.onnx", "--lock", "*", "--json"]) == 0
        assert main(["lut", "export", "-o", "epyc.csv"]) == 0
        assert main(["lut", "merge", "epyc.csv", "-o", "all.sqlite"]) == 0
    status, out, err = run(capsys, *shlex.split(command)[1:])
    assert status == 0, err
    assert out
