"""`finetune` as a whole: closer to the dense model on held-out inputs, never worse, the same again after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_mdp
from onnx_mdp.cli.main import main
from onnx_mdp.errors import InputError, MdpError, ModelError, OptionError
from onnx_mdp.pipeline.listener import Listener
from tests.conftest import MODELS, build_model
from tests.torch.nets import CLASSES, WIDTH, convolution, perturbed, residual, samples

QUICK: dict[str, Any] = {"epochs": 4, "batch": 32, "threads": 1}


def weights(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in model.graph.initializer}


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def distance(model: onnx.ModelProto, dense: onnx.ModelProto, x: np.ndarray) -> float:
    """Mean squared difference of the outputs, on inputs of the caller's."""
    feeds = {dense.graph.input[0].name: x}
    pairs = zip(outputs(model, feeds), outputs(dense, feeds), strict=True)
    return float(np.mean([np.square(a - b).mean() for a, b in pairs]))


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_a_pruned_model_comes_closer_to_the_dense_one(name: str, tmp_path: Path, lut: Path) -> None:
    path = MODELS / f"{name}.onnx"
    cut = onnx_mdp.prune(path, ratio="50%", lut=lut).model
    with np.load(MODELS / "digits_test.npz") as data:
        images, fresh = data["input"][:300], data["input"][300:]
    result = onnx_mdp.finetune(cut, dense=path, inputs=images, output=tmp_path / "tuned.onnx", **QUICK)
    before, after = result.report["before"]["divergence"], result.report["after"]["divergence"]
    assert after < 0.7 * before
    tuned = onnx.load(tmp_path / "tuned.onnx")
    assert weights(tuned) == weights(result.model)
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.onnx"]
    onnx.checker.check_model(tuned, full_check=True)
    assert (tuned.graph.input, tuned.graph.output) == (cut.graph.input, cut.graph.output)
    assert [n.SerializeToString() for n in tuned.graph.node] == [n.SerializeToString() for n in cut.graph.node]
    assert distance(tuned, onnx.load(path), fresh) < distance(cut, onnx.load(path), fresh)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "lr": 0.05},
        {"features": True},
        {"freeze_norm": True},
        {"ema": 0.0},
        {"temperature": 4.0, "clip": 0.0, "weight_decay": 0.0, "warmup": "50%"},
        {"epochs": None, "minutes": 0.03},
    ],
    ids=str,
)
def test_every_way_of_training_does_good(options: dict[str, Any]) -> None:
    dense = residual()
    given = perturbed(dense)
    result = onnx_mdp.finetune(given, dense=dense, inputs=samples(), **{**QUICK, "epochs": 20, **options})
    report = result.report
    assert report["kept"]
    assert not report["warnings"]
    assert report["after"]["divergence"] < 0.7 * report["before"]["divergence"]
    fresh = np.random.default_rng(5).standard_normal((200, WIDTH)).astype(np.float32)
    assert distance(result.model, dense, fresh) < distance(given, dense, fresh)
    moved = {name for name, data in weights(given).items() if weights(result.model)[name] != data}
    assert moved >= {"w0", "b0", "w1", "scale", "bias", "w2", "w3", "b3"}
    assert ("mean" in moved) != options.get("freeze_norm", False)


def test_the_same_seed_gives_the_same_weights() -> None:
    dense = residual()
    models = [
        onnx_mdp.finetune(perturbed(dense), dense=dense, inputs=samples(), seed=s, **QUICK).model for s in (3, 3, 4)
    ]
    assert weights(models[0]) == weights(models[1]) != weights(models[2])


class StopAfter(Listener):
    """Interrupts as a user would, once some epochs are done."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def step(self, done: int, total: int, what: str = "") -> None:
        """One epoch less."""
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_run_goes_on_to_the_same_result(optimizer: str, tmp_path: Path) -> None:
    dense, checkpoint = residual(), tmp_path / "c"
    options = {**QUICK, "optimizer": optimizer, "inputs": samples(), "dense": dense, "epochs": 6}
    whole = onnx_mdp.finetune(perturbed(dense), **options)
    with pytest.raises(KeyboardInterrupt):
        onnx_mdp.finetune(perturbed(dense), checkpoint=checkpoint, listener=StopAfter(4), **options)
    resumed = onnx_mdp.finetune(perturbed(dense), checkpoint=checkpoint, resume=True, **options)
    assert weights(resumed.model) == weights(whole.model)
    assert resumed.report["steps"] == whole.report["steps"]
    assert [row["loss"] for row in resumed.report["history"]] == [row["loss"] for row in whole.report["history"]]
    again = onnx_mdp.finetune(perturbed(dense), checkpoint=checkpoint, resume=True, **options)
    assert weights(again.model) == weights(whole.model)


def test_a_killed_process_leaves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    dense = residual()
    for name, model in (("dense", dense), ("cut", perturbed(dense))):
        onnx.save(model, tmp_path / f"{name}.onnx")
    np.save(tmp_path / "x.npy", samples())
    command = ["finetune", "cut.onnx", "--dense", "dense.onnx", "--inputs", "x.npy", "--batch", "8", "--threads", "1"]
    command += ["-o", "tuned.onnx", "-q"]
    with subprocess.Popen([sys.executable, "-m", "onnx_mdp", *command, "--epochs", "100000"], cwd=tmp_path) as process:
        while not (tmp_path / "tuned.onnx.checkpoint").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "tuned.onnx").exists()
    short = ["--epochs", "5", "--resume", "--report", "r.json"]
    subprocess.run([sys.executable, "-m", "onnx_mdp", *command, *short], cwd=tmp_path, check=True)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["kept"]
    assert [row["epoch"] for row in report["history"]] == list(range(1, report["epochs"] + 1))
    assert not (tmp_path / "tuned.onnx.checkpoint").exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    dense, checkpoint = residual(), tmp_path / "c"
    options = {**QUICK, "inputs": samples(), "dense": dense, "checkpoint": checkpoint}
    onnx_mdp.finetune(perturbed(dense), **options)
    for given, more in ((perturbed(dense, seed=2), {}), (perturbed(dense), {"lr": 0.1})):
        with pytest.raises(InputError, match="--resume: .*c is of another training"):
            onnx_mdp.finetune(given, resume=True, **{**options, **more})
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(InputError, match="--resume: .*c is no checkpoint; remove it"):
        onnx_mdp.finetune(perturbed(dense), resume=True, **options)


@pytest.mark.parametrize("options", [{"lr": 3.0}, {"lr": 1e30}, {"lr": 1e-9}], ids=str)
def test_no_model_comes_back_worse(options: dict[str, Any]) -> None:
    """Nothing improves on the dense model itself, and training that diverges is not handed on."""
    dense = residual()
    result = onnx_mdp.finetune(dense, dense=dense, inputs=samples(), **QUICK, **options)
    assert result.model.SerializeToString() == dense.SerializeToString()
    assert result.report["after"] == result.report["before"]
    assert "training did no good on held-out inputs" in result.report["warnings"][-1]


def test_training_ends_where_nothing_improves() -> None:
    dense = residual()
    result = onnx_mdp.finetune(dense, dense=dense, inputs=samples(), **{**QUICK, "epochs": 50}, patience=2)
    assert result.report["epochs"] == 2
    assert result.report["ended"] == "2 epochs without better weights"


def test_labels_are_learned_and_weights_chosen_by_accuracy() -> None:
    """The dense model's own classes, shifted by one: what its outputs do not say."""
    dense, x = residual(), samples(400)
    labels = (outputs(dense, {"x": x})[0].argmax(1) + 1) % CLASSES
    options = {**QUICK, "epochs": 40, "lr": 0.02, "inputs": x, "dense": dense}
    report = onnx_mdp.finetune(dense, labels=labels, **options).report
    assert report["after"]["accuracy"] > report["before"]["accuracy"] + 0.2
    assert report["before"]["accuracy"] < 0.2
    assert onnx_mdp.finetune(perturbed(dense), **{**options, "epochs": 2}).report["after"]["accuracy"] is None
    with pytest.raises(OptionError, match="--labels: are .*, the model has 5 classes"):
        onnx_mdp.finetune(dense, labels=np.arange(400), **options)
    images = {"inputs": samples(64, (3, 8, 8)), "labels": np.zeros(64, int)}
    with pytest.raises(OptionError, match="--labels: no output has a number for each class"):
        onnx_mdp.finetune(convolution(), dense=convolution(), **images)


def test_images_may_be_changed_each_time() -> None:
    dense = convolution()
    options = {**QUICK, "inputs": samples(64, (3, 8, 8)), "dense": dense, "batch": 16, "epochs": 8, "lr": 0.01}
    results = [onnx_mdp.finetune(perturbed(dense), augment=ways, **options) for ways in ((), "flip", ("flip", "shift"))]
    assert all(result.report["kept"] for result in results)
    assert len({tuple(weights(result.model).values()) for result in results}) == 3
    with pytest.raises(OptionError, match="--augment flip: no input is of images: x 32x12; leave it out"):
        onnx_mdp.finetune(perturbed(residual()), dense=residual(), inputs=samples(), augment="flip", **QUICK)


def fixed(batch: int) -> onnx.ModelProto:
    """Computes on rows of a batch that a Reshape names, so that no other batch can be run."""
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "shape"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    return build_model(nodes, {"x": (batch, WIDTH)}, ["y"], {"w": (4, 4), "shape": np.array([batch, 3, 4])})


@pytest.mark.parametrize("make", [fixed, residual])
def test_a_fixed_batch_is_trained_as_it_can_be(make: Callable[[int], onnx.ModelProto]) -> None:
    dense = make(2)
    result = onnx_mdp.finetune(
        perturbed(dense), dense=dense, inputs=samples(101), **{**QUICK, "batch": 9, "epochs": 12}
    )
    assert result.report["after"]["divergence"] < result.report["before"]["divergence"]
    assert [text.startswith("the graph fixes its batch to 2") for text in result.report["warnings"]] == (
        [True] if make is fixed else []
    )
    assert result.report["steps"] == 12 * ((100 - 10) // (8 if make is fixed else 9))


def test_the_command_trains_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dense = residual()
    onnx.save(dense, "dense.onnx")
    onnx.save(perturbed(dense), "cut.onnx")
    np.savez("data.npz", x=samples(), labels=np.zeros(256, int))
    (tmp_path / "mdp.toml").write_text("[finetune]\nepochs = 2\ninputs = 'data.npz'\nthreads = 1\n")
    assert main(["finetune", "cut.onnx", "--dense", "dense.onnx", "--config", "mdp.toml", "--batch", "32"]) == 0
    captured = capsys.readouterr()
    assert "epoch 2: loss" in captured.err
    assert "accuracy: " in captured.out
    assert "trained: 2 epochs, 14 steps" in captured.out
    assert "written: cut-tuned.onnx" in captured.out
    assert main(["finetune", "cut.onnx", "--dense", "dense.onnx", "--inputs", "data.npz", "-o", "cut.onnx"]) == 1
    assert "cut.onnx: is the input model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "--optimizer lion: choose from adamw, sgd"),
        ({"epochs": 0}, "--epochs 0: must be 1 or more"),
        ({"minutes": 0.0}, "--minutes 0.0: must be more than zero"),
        ({"lr": -1.0}, "--lr -1.0: must be more than zero"),
        ({"batch": 0}, "--batch 0: must be 1 or more"),
        ({"ema": 1.0}, "--ema 1.0: must be from 0 up to but not 1"),
        ({"clip": -1.0}, "--clip -1.0: must be zero or more"),
        ({"warmup": "soon"}, "--warmup soon: not a share"),
        ({"held_out": "much"}, "--held-out much: not an amount"),
        ({"held_out": "300"}, "--held-out 300: leaves 300 of 256 inputs to judge by"),
        ({"augment": ("blur",)}, "--augment blur: choose from flip, shift"),
        ({"device": "abacus"}, "--device abacus: .*use --device cpu"),
        ({"dense": None}, "--dense: give the model that this one was cut from"),
        ({"inputs": None}, "--inputs: give inputs to train on"),
        ({"inputs": samples(2)}, "--held-out 10%: leaves 0 of 2 inputs to judge by, and 2 to train on; give more"),
        ({"resume": True}, "--resume: there is no --output to go by; name the --checkpoint"),
    ],
    ids=str,
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    dense = residual()
    with pytest.raises(MdpError, match=message):
        onnx_mdp.finetune(perturbed(dense), **{**QUICK, "dense": dense, "inputs": samples(), **options})


def test_models_that_cannot_be_trained_are_named() -> None:
    dense, options = residual(), {**QUICK, "inputs": samples()}
    other = residual()
    other.graph.output[1].name = other.graph.node[-1].output[0] = "hidden"
    with pytest.raises(ModelError, match="has no output 'latent', only logits, hidden; give the"):
        onnx_mdp.finetune(dense, dense=other, **options)
    narrow = build_model([onnx.helper.make_node("Relu", ["x"], ["latent"])], {"x": ("N", 3)}, ["latent"], {})
    with pytest.raises(ModelError, match=r"input 'x' is float \?x12 there and float \?x3 in test; give the"):
        onnx_mdp.finetune(narrow, dense=dense, **options)
    still = build_model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": ("N", WIDTH)}, ["y"], {})
    with pytest.raises(ModelError, match="stores no weight that a gradient reaches"):
        onnx_mdp.finetune(still, dense=still, **options)
    strange = build_model([onnx.helper.make_node("Det", ["x"], ["y"])], {"x": ("N", 4, 4)}, ["y"], {})
    with pytest.raises(ModelError, match=r"operator Det of opset 18 has no form in PyTorch here"):
        onnx_mdp.finetune(strange, dense=strange, **{**options, "inputs": samples(64, (4, 4))})


def test_features_that_were_cut_are_not_matched() -> None:
    dense = residual()
    cut = perturbed(dense)
    for node in cut.graph.node:
        node.input[:] = ["other" if name == "block" else name for name in node.input]
        node.output[:] = ["other" if name == "block" else name for name in node.output]
    results = [
        onnx_mdp.finetune(cut, dense=dense, inputs=samples(), features=features, **QUICK) for features in (False, True)
    ]
    assert weights(results[0].model) == weights(results[1].model)
    assert "no block's output has the dense model's shape" in results[1].report["warnings"][0]
    matched = onnx_mdp.finetune(perturbed(dense), dense=dense, inputs=samples(), features=True, **QUICK)
    assert weights(matched.model) != weights(results[0].model)


def test_half_precision_is_refused() -> None:
    halves = {"w": np.ones((4, 3), np.float16)}
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = build_model(nodes, {"x": ("N", 4)}, ["y"], halves)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    x = samples(64, (4,)).astype(np.float16)
    with pytest.raises(ModelError, match="weights are torch.float16: .* train the float32 model"):
        onnx_mdp.finetune(model, dense=model, inputs=x, **QUICK)


def test_without_pytorch_the_error_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["finetune", "cut.onnx", "--dense", "dense.onnx", "--inputs", "x.npy"]) == 1
    assert capsys.readouterr().err == "error: finetune: PyTorch is not installed: pip install 'onnx-mdp[torch]'\n"
