"""Weights that are more than a part of the dense ones come into the user's PyTorch model: rotated, and fitted anew."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import onnx_mdp
from onnx_mdp.errors import PlanError
from onnx_mdp.pipeline.prune import PruneResult
from onnx_mdp.pipeline.streams import write_plans
from onnx_mdp.torch import apply_plan
from tests.conftest import analysis_of
from tests.torch.test_cut import HEADS, UNFOLDED, WIDTH, Block, assert_same, exported, folded_names, trained

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
IMAGES = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


class Scaled(Block):
    """The block with a scale of its own on a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(x)
        x = x + self.scale * self.down(torch.sigmoid(self.gate(y)) * self.up(y))
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5, dim=-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    """A transformer over patches and a class token; its stream is under normalizations everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 17, WIDTH))
        self.blocks = nn.ModuleList([Block(), Scaled()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def tokens() -> Tokens:
    """A network none of whose parameters are at their defaults."""
    torch.manual_seed(0)
    net = Tokens().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def rotated(model: onnx.ModelProto, **options: Any) -> PruneResult:
    """The model with 70 % of every group, its streams rotated before."""
    result = onnx_mdp.prune(model, ratio="70%", inputs=IMAGES, streams="rotate", **options)
    assert result.plan["streams"]
    return result


def with_heads(module: Tokens, plan: dict[str, Any]) -> Tokens:
    """The module with the counts of heads that its own forward reads."""
    heads = [width for group, width in plan["groups"].items() if group.endswith("/head")]
    for block, count in zip(module.blocks, heads, strict=True):
        block.heads = count
    return module


@pytest.mark.parametrize("recover", [False, True])
@pytest.mark.parametrize("options", [{}, UNFOLDED], ids=["folded", "unfolded"])
def test_module_follows_a_rotated_stream(options: dict[str, Any], recover: bool) -> None:
    net = tokens()
    model = exported(net, IMAGE, **options)
    result = rotated(model, recover=recover)
    before = net(IMAGE)
    module = with_heads(apply_plan(copy.deepcopy(net), result.plan, model, pruned=result.model), result.plan)
    assert_same(result.model, module, IMAGE)
    assert torch.equal(net(IMAGE), before)
    assert (module(IMAGE) - before).abs().max() > 1e-2 * before.abs().max()
    width = module.head.in_features
    assert width < WIDTH
    assert str(module.norm) == str(nn.LayerNorm(width, eps=module.norm.eps))
    assert (module.blocks[1].scale == 1).all()
    state = apply_plan(net.state_dict(), result.plan, model, pruned=result.model)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    module.train()(IMAGE).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


class RootMeanSquare(nn.Module):
    """A normalization that is no layer of PyTorch's, with an epsilon that only its forward knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-8) * self.gain


def test_normalizations_and_layers_without_biases() -> None:
    net = tokens()
    for block in net.blocks:
        block.norm1, block.norm2 = RootMeanSquare(), RootMeanSquare()
        for name in ("qkv", "proj", "up", "gate", "down"):
            old = getattr(block, name)
            setattr(block, name, nn.Linear(old.in_features, old.out_features, bias=False))
    net.norm, net.head = RootMeanSquare(), nn.Linear(WIDTH, 5, bias=False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = exported(net, IMAGE)
    result = rotated(model)
    before = net(IMAGE)
    module = with_heads(apply_plan(net, result.plan, model, pruned=result.model), result.plan)
    assert_same(result.model, module, IMAGE)
    assert not torch.allclose(module(IMAGE), before, rtol=1e-2)


def test_plan_file_and_what_apply_makes_of_it(tmp_path: Path) -> None:
    net = tokens()
    model = exported(net, IMAGE)
    result = rotated(model)
    last = [block.name for block in analysis_of(model).blocks if block.name.startswith("/blocks.0/")][-1]
    plan = {**result.plan, "removed_blocks": [last]}
    write_plans({tmp_path / "plan.json": plan}, result.bases, tmp_path / "plan.streams.npz")
    cut, _ = onnx_mdp.apply(model, tmp_path / "plan.json")
    assert len(cut.graph.node) < len(result.model.graph.node)
    module = with_heads(apply_plan(net, tmp_path / "plan.json", model, pruned=cut), plan)
    assert_same(cut, module, IMAGE)
    assert not module.blocks[0].down.weight.any()


def test_weights_fitted_anew_come_along() -> None:
    net = trained()
    image = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    model = exported(net, image, **UNFOLDED)
    images = np.random.default_rng(0).standard_normal((64, 3, 9, 9)).astype(np.float32)
    result = onnx_mdp.prune(model, ratio="50%", inputs=images, streams="keep")
    cut = apply_plan(copy.deepcopy(net), result.plan, model)
    fitted = apply_plan(copy.deepcopy(net), result.plan, model, pruned=result.model)
    for module in (cut, fitted):
        module.block.heads = next(width for group, width in result.plan["groups"].items() if group.endswith("head"))
    assert_same(result.model, fitted, image)
    assert not torch.allclose(cut(image), fitted(image), rtol=1e-2)
    assert str(cut) == str(fitted)


def test_what_has_no_parameter_is_named() -> None:
    net = tokens()
    net.blocks[0].up = nn.Linear(WIDTH, 40, bias=False)
    model = exported(net, IMAGE)
    result = rotated(model)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(PlanError, match=r"adds '.*blocks.0/up/MatMul_output_0/shift'.*Give the layer a bias"):
        apply_plan(net, result.plan, model, pruned=result.model)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_norm_without_parameters_is_named() -> None:
    net = tokens()
    net.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
    model = exported(net, IMAGE)
    result = rotated(model)
    with pytest.raises(PlanError, match="has other numbers for '.*', and no parameter stands for it"):
        apply_plan(net, result.plan, model, pruned=result.model)


def test_what_was_folded_cannot_be_fitted() -> None:
    net = trained()
    image = torch.zeros(1, 3, 9, 9)
    model = exported(net, image)
    images = np.random.default_rng(0).standard_normal((64, 3, 9, 9)).astype(np.float32)
    result = onnx_mdp.prune(model, ratio="50%", inputs=images, streams="keep")
    names = folded_names(result.plan, model)
    with pytest.raises(
        PlanError, match=r"other numbers for '.*', and '.*' differs from it.*PRESERVE|no parameter's name"
    ):
        apply_plan(net, result.plan, model, names=names, pruned=result.model)


def test_what_has_to_be_given_is_said() -> None:
    net = tokens()
    model = exported(net, IMAGE)
    result = rotated(model)
    with pytest.raises(PlanError, match="changes what .* computes .*give the dense model as model=.*as pruned="):
        apply_plan(net, result.plan, model)
    with pytest.raises(PlanError, match="pruned= is read by the names of the dense model"):
        apply_plan(net, result.plan, pruned=result.model)
    with pytest.raises(PlanError, match="have 'token' at 1x1x17 and 1x1x24; give the model that this plan made"):
        apply_plan(net, result.plan, model, pruned=model)


class Tied(nn.Module):
    """Words in and words out by one table."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.block, self.norm = nn.Embedding(20, WIDTH), Block(), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 20)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.block(self.words(ids))))


def test_a_table_that_is_rotated_in_two_ways_is_named() -> None:
    torch.manual_seed(0)
    net = Tied().eval()
    with torch.no_grad():
        net.norm.weight.add_(0.2 * torch.randn(WIDTH))
    ids = torch.arange(6)[None]
    model = exported(net, ids)
    words = np.random.default_rng(0).integers(0, 20, (64, 6))
    result = onnx_mdp.prune(model, ratio="70%", inputs=words, streams="rotate")
    assert result.plan["streams"]
    with pytest.raises(PlanError, match="needs 'words.weight' in two forms.*of its own"):
        apply_plan(net, result.plan, model, pruned=result.model)
