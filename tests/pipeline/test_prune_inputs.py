"""Pruning with every kind of inputs, from Python and from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from onnx_mdp import prune
from onnx_mdp.cli.main import main
from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import InputError, OptionError
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.prune import Pruner
from tests.conftest import build_model


def small(batch: int | str = "N", size: int | str = 16) -> onnx.ModelProto:
    """Two convolutions and a classifier on images."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3"], ["y"]),
    ]
    weights = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (8, 4)}
    return build_model(nodes, {"x": (batch, 3, size, size)}, ["y"], weights)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(small(), "m.onnx")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)
    np.save("x.npy", x.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    np.savetxt("labels.txt", np.arange(12) % 4, fmt="%d")
    Path("images").mkdir()
    for number, pixels in enumerate(x):
        Image.fromarray(pixels).save(f"images/{number:02}.png")
    Path("feeds_of_test.py").write_text("import numpy as np\ndef feeds():\n    yield np.load('x.npy')\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["prune", "m.onnx", "--ratio", "50%", "--force", *arguments])
    return status, capsys.readouterr().err.replace("\n", " ")


def plan_of(**fields: object) -> dict[str, object]:
    return prune("m.onnx", ratio="50%", force=True, importance="activation", **fields).plan


def test_the_same_samples_give_the_same_plan(here: Path) -> None:
    """Whatever they come from; only sums in another order differ."""
    x = np.load("x.npy")
    wanted = plan_of(inputs=x)
    assert plan_of(inputs="x.npy") == wanted
    assert plan_of(inputs=Path("images"), preprocess="unit") == wanted
    assert plan_of(inputs="feeds_of_test:feeds") == wanted
    assert plan_of(inputs=lambda: x, labels=np.arange(12) % 4) == wanted
    assert plan_of(inputs="x.npy", labels="labels.txt", samples=12) == wanted


def test_warnings_reach_the_report(here: Path) -> None:
    Path("images/broken.png").write_text("")
    result = prune("m.onnx", ratio="50%", force=True, inputs="images", preprocess="unit")
    assert any("1 cannot be read and are left out: broken.png (is no image)" in text for text in result.report.warnings)
    result = prune("m.onnx", ratio="50%", force=True, inputs="synthetic", samples=8)
    assert any("made-up inputs stand in for data" in text for text in result.report.warnings)


def test_inputs_settle_open_sizes(here: Path) -> None:
    result = prune(small("N", "S"), ratio="50%", force=True, inputs="images", preprocess="unit,size=12")
    assert result.report.parameters["pruned"] < result.report.parameters["dense"]
    with pytest.raises(InputError, match="give its size: --shape x:1x3x224x224"):
        prune(small("N", "S"), ratio="50%", inputs="synthetic")
    prune(small("N", "S"), ratio="50%", force=True, inputs="synthetic", samples=4, shape="x:1x3x12x12")


def test_a_fixed_batch_is_filled(here: Path) -> None:
    prune(small(5), ratio="50%", force=True, inputs="images", preprocess="unit")
    with pytest.raises(InputError, match="holds 4 samples, the model's batch is 5"):
        prune(small(5), ratio="50%", inputs="images", preprocess="unit", samples=4)
    with pytest.raises(InputError, match="holds 12 samples, one run takes 13"):
        prune(small(), ratio="50%", inputs="x.npy", shape="x:13x3x16x16")


def test_options_without_inputs_are_refused(here: Path) -> None:
    for name, value in (("preprocess", "unit"), ("labels", "labels.txt"), ("samples", 3)):
        with pytest.raises(OptionError, match=f"--{name} {value}: says how --inputs are read"):
            prune("m.onnx", ratio="50%", **{name: value})


def test_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ("--inputs", "images", "--preprocess", "unit", "--labels", "labels.txt", "--samples", "8"),
        ("--inputs", "feeds_of_test:feeds"),
        ("--inputs", "synthetic", "--samples", "8"),
    ):
        status, err = run(capsys, *arguments)
        assert status == 0, err
        assert ("made-up inputs stand in" in err) == ("synthetic" in arguments)
    status, err = run(capsys, "--inputs", "images")
    assert status == 1
    assert err.startswith("error: --inputs images: a folder of images needs --preprocess: imagenet, ")
    Path("mdp.toml").write_text('[prune]\ninputs = "images"\npreprocess = "unit"\nsamples = 6\n')
    assert run(capsys, "--config", "mdp.toml")[0] == 0
    assert main(["profile", "m.onnx", "--inputs", "images", "--preprocess", "unit", "--samples", "2", "-q"]) == 0


def test_one_case_is_pruned_to_many_budgets(calibration: Path, cnn: Path) -> None:
    """What is scored once gives the models that scoring for each would have given, recovery included."""
    options = {name: PruneOptions(ratio=name, samples=24, force=True) for name in ("80%", "50%")}
    case = Pruner(options["80%"], Listener()).start(cnn, str(calibration))
    for name in ("50%", "80%", "50%"):
        shared = Pruner(options[name], Listener()).finish(case).model
        alone = prune(cnn, options[name], inputs=str(calibration)).model
        assert shared.SerializeToString() == alone.SerializeToString()
