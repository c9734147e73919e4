"""A plan's cut made in the PyTorch model that the ONNX model was exported from computes what the pruned model does."""

from __future__ import annotations

import copy
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import onnx_mdp
from onnx_mdp.config import ApplyOptions
from onnx_mdp.errors import PlanError
from onnx_mdp.rewrite.plan import Plan, dense_plan, to_json
from onnx_mdp.torch import apply_plan
from tests.conftest import analysis_of

WIDTH, HEADS = 24, 4


class Block(nn.Module):
    """Attention and a gated MLP; its forward splits by a number of heads of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.gate, self.down = nn.Linear(WIDTH, 40), nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5, dim=-1) @ v
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(torch.sigmoid(self.gate(y)) * self.up(y))


class Net(nn.Module):
    """Convolutions of all kinds, normalizations, a residual, and tokens with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.wide, self.deep = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.bn2, self.act, self.back = nn.BatchNorm2d(32), nn.PReLU(32), nn.Conv2d(32, 16, 1)
        self.grouped, self.norm = nn.Conv2d(16, 24, 3, groups=4, stride=2), nn.GroupNorm(4, 24)
        self.up = nn.ConvTranspose2d(24, 20, 2)
        self.tokens, self.block, self.head = nn.Conv2d(20, WIDTH, 1), Block(), nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = x + self.back(self.act(self.bn2(self.deep(self.wide(x)))))
        x = torch.relu(self.norm(self.grouped(x)))
        x = self.tokens(torch.relu(self.up(x))).flatten(2).transpose(1, 2)
        return self.head(self.block(x).mean(1))


def trained(seed: int = 0) -> Net:
    """A network none of whose parameters are at their defaults."""
    torch.manual_seed(seed)
    net = Net().eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                value.add_(torch.rand_like(value) * 0.3 + (0.2 if name.endswith("var") else 0))
    return net


def exported(module: nn.Module, x: torch.Tensor, **options: Any) -> onnx.ModelProto:
    """The module as the TorchScript exporter writes it."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is an old one
        torch.onnx.export(module, (x,), file, dynamo=False, opset_version=17, input_names=["x"], **options)
    return onnx.load_from_string(file.getvalue())


UNFOLDED: dict[str, Any] = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}


def half(model: onnx.ModelProto, *, blocks: bool = False) -> dict[str, Any]:
    """A plan file's content: every other unit of each group, and all blocks gone or none."""
    analysis = analysis_of(model)
    dense = dense_plan(analysis)
    kept = {name: units[: max(1, len(units) // 2)] for name, units in dense.kept.items()}
    removed = tuple(block.name for block in analysis.blocks) if blocks else ()
    return json.loads(json.dumps(to_json(analysis, Plan(kept, removed))))


def pruned(model: onnx.ModelProto, plan: dict[str, Any], folder: Path) -> onnx.ModelProto:
    """What `onnx-mdp apply` makes of it."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    cut, _ = onnx_mdp.apply(model, path, ApplyOptions())
    return cut


def assert_same(model: onnx.ModelProto, module: nn.Module, x: torch.Tensor) -> None:
    """The module computes what the model does."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x.numpy()})
    found = module(x).detach().numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


IMAGE = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, UNFOLDED], ids=["folded", "unfolded"])
def test_cut_module_equals_the_cut_model(options: dict[str, Any], tmp_path: Path) -> None:
    net = trained()
    model = exported(net, IMAGE, **options)
    plan = half(model)
    assert len(plan["groups"]) == 8
    before = net(IMAGE)
    cut = pruned(model, plan, tmp_path)
    names = {} if options else folded_names(plan, model)
    module = apply_plan(copy.deepcopy(net), plan, model, names=names)
    heads = next(width for group, width in plan["groups"].items() if group.endswith("head"))
    module.block.heads = heads
    assert_same(cut, module, IMAGE)
    assert not torch.allclose(module(IMAGE), before, rtol=1e-2)
    assert torch.equal(net(IMAGE), before)
    assert sizes(module) == sizes(rebuilt(module))
    loss = module.train()(torch.randn(4, 3, 9, 9)).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def folded_names(plan: dict[str, Any], model: onnx.ModelProto) -> dict[str, list[str]]:
    """What the first convolution and the depthwise one stand for, whose normalizations were folded into them."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    names: dict[str, list[str]] = {}
    for place, (layer, norm) in {0: ("stem", "bn"), 2: ("deep", "bn2")}.items():
        weight, bias = convolutions[place].input[1:]
        assert weight in plan["initializers"]
        names[weight] = [f"{layer}.weight"]
        names[bias] = [f"{layer}.bias", *(f"{norm}.{n}" for n in ("weight", "bias", "running_mean", "running_var"))]
    return names


def sizes(module: nn.Module) -> str:
    """What the layers say of themselves."""
    return str(module)


def rebuilt(module: Net) -> Net:
    """A network made anew at the parameters' sizes: what the layers' own constructors state."""
    other = copy.deepcopy(module)
    w = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    other.stem, other.bn = nn.Conv2d(3, w["stem.weight"][0], 3, padding=1), nn.BatchNorm2d(w["bn.weight"][0])
    hidden = w["wide.weight"][0]
    other.wide = nn.Conv2d(w["stem.weight"][0], hidden, 1)
    other.deep = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    other.bn2, other.act = nn.BatchNorm2d(hidden), nn.PReLU(hidden)
    other.back = nn.Conv2d(hidden, w["stem.weight"][0], 1)
    out, per_group = w["grouped.weight"][:2]
    groups = w["stem.weight"][0] // per_group
    other.grouped, other.norm = (
        nn.Conv2d(w["stem.weight"][0], out, 3, groups=groups, stride=2),
        nn.GroupNorm(groups, out),
    )
    other.up = nn.ConvTranspose2d(out, w["up.weight"][1], 2)
    other.tokens = nn.Conv2d(w["up.weight"][1], WIDTH, 1)
    for name in ("qkv", "proj", "up", "gate", "down"):
        setattr(other.block, name, nn.Linear(*w[f"block.{name}.weight"][::-1]))
    return other


def test_state_dict_is_cut_and_left_alone(tmp_path: Path) -> None:
    net = trained()
    model = exported(net, IMAGE, **UNFOLDED)
    plan = half(model)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    state = net.state_dict()
    shapes = {name: value.shape for name, value in state.items()}
    found = apply_plan(state, path, model)
    assert {name: value.shape for name, value in state.items()} == shapes
    assert list(found) == list(state)
    module = apply_plan(copy.deepcopy(net), path, model)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in found.items())
    smaller = copy.deepcopy(module)
    smaller.load_state_dict(found)


def test_removed_blocks_are_silenced(tmp_path: Path) -> None:
    net = trained()
    model = exported(net, IMAGE, **UNFOLDED)
    plan = half(model, blocks=True)
    assert len(plan["removed_blocks"]) == 3
    with pytest.raises(PlanError, match="removes block .*: give model="):
        apply_plan(net, {**plan, "initializers": {}})
    cut = pruned(model, plan, tmp_path)
    module = apply_plan(net, plan, model)
    module.block.heads = next(width for group, width in plan["groups"].items() if group.endswith("head"))
    assert_same(cut, module, IMAGE)
    assert not module.back.weight.any()


def test_shared_parameters_stay_shared() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 8))
    net[2].weight = net[0].weight
    plan = {"initializers": {"0.weight": {"0": [1, 2]}}}
    module = apply_plan(copy.deepcopy(net), plan)
    assert module[2].weight is module[0].weight
    assert module[2].weight.shape == (2, 4)
    assert module[0].out_features == 2
    assert torch.equal(module[0].weight, net[0].weight[[1, 2]])
    with pytest.raises(PlanError, match=r"cuts '\d.weight' axis 0 in two ways"):
        apply_plan(net, {"initializers": {"0.weight": {"0": [1, 2]}, "2.weight": {"0": [0, 1]}}})


def test_what_was_folded_is_named() -> None:
    net = trained()
    model = exported(net, IMAGE)
    plan = half(model)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(PlanError, match=r"cuts 'onnx::Conv_\d+' \(16x3x3x3\).*folded a BatchNormalization.*names="):
        apply_plan(net, plan, model)
    with pytest.raises(PlanError, match=r"no parameter has that name; .*or give model="):
        apply_plan(net, plan)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_does_not_fit_is_named() -> None:
    net = nn.Sequential(nn.Linear(4, 8))
    with pytest.raises(PlanError, match="keeps index 9 of '0.weight' axis 0, and '0.weight' has 8 there"):
        apply_plan(net, {"initializers": {"0.weight": {"0": [1, 9]}}})
    with pytest.raises(PlanError, match="names: there is no parameter 'fc'; there are 0.weight, 0.bias"):
        apply_plan(net, {"initializers": {}}, names={"w": "fc"})
    attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(PlanError, match="MultiheadAttention cannot lose heads"):
        apply_plan(attention, {"initializers": {"in_proj_weight": {"0": list(range(12))}}})
    assert attention.in_proj_weight.shape == (24, 8)


def test_a_shortcut_that_became_a_convolution_is_refused() -> None:
    with pytest.raises(PlanError, match="makes a convolution of 'widen'.*--no-lossless"):
        apply_plan(nn.Linear(2, 2), {"initializers": {}, "convolved": ["widen"]})


def test_equal_parameters_are_told_apart_by_name_only() -> None:
    layers = [nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(6, 3)]
    layers[2].weight.data = layers[0].weight.data.clone()
    net = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU()))).eval()
    model = exported(net, torch.ones(1, 7, 4))
    plan = half(model)
    with pytest.raises(PlanError, match="2 parameters equal it, 0.weight, 4.weight; name it in names="):
        apply_plan(net, plan, model)
    shared = next(name for name, axes in plan["initializers"].items() if "MatMul" in name and "1" in axes)
    module = apply_plan(net, plan, model, names={shared: ["0.weight", "4.weight"]})
    assert [layer.out_features for layer in module[::2]] == [3, 4, 3, 3]
