"""The module as a whole: it computes what the model does, trains as PyTorch's own would, and gives its weights back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node as node

from onnx_mdp.errors import InputError, ModelError, UnknownNameError
from onnx_mdp.torch import to_module, write_back
from onnx_mdp.torch.names import initializer_name, state_keys
from tests.conftest import MODELS, build_model
from tests.torch.gradients import check_gradients

Feeds = dict[str, np.ndarray]


def run(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """What ONNX Runtime makes of the inputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def assert_equal(model: onnx.ModelProto, module: torch.nn.Module, feeds: Feeds, tolerance: float = 1e-5) -> None:
    """The module's outputs are ONNX Runtime's, relative to the largest of each, and they vary with the inputs."""
    for expected, other, found in zip(
        run(model, feeds),
        run(model, {n: v[::-1] * 2 for n, v in feeds.items()}),
        module({n: torch.from_numpy(v) for n, v in feeds.items()}).values(),
        strict=True,
    ):
        scale = np.abs(expected.astype(np.float64)).max()
        assert np.abs(expected - other).max() > 1e-2 * scale
        assert np.abs(found.detach().float().numpy() - expected).max() <= tolerance * scale


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_bundled_models(name: str, calibration: Path) -> None:
    model = onnx.load(str(MODELS / f"{name}.onnx"))
    images = np.load(calibration)["input"]
    module = to_module(model)
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 4
    assert_equal(model, module, {"input": images[:size]})
    assert write_back(model, module).SerializeToString() == model.SerializeToString()
    check_gradients(model, module, {"input": images[:size]})


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_trained_weights_are_what_the_model_then_computes_with(name: str, calibration: Path) -> None:
    model = onnx.load(str(MODELS / f"{name}.onnx"))
    before = model.SerializeToString()
    x = torch.from_numpy(np.load(calibration)["input"][:1])
    module = to_module(model).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x)["logits"], torch.tensor([3])).backward()
        optimizer.step()
    trained = write_back(model, module.eval())
    assert model.SerializeToString() == before
    onnx.checker.check_model(trained, full_check=True)
    names = [t.name for t in trained.graph.initializer]
    assert names == [t.name for t in model.graph.initializer]
    assert np.abs(run(trained, {"input": x.numpy()})[0] - run(model, {"input": x.numpy()})[0]).max() > 1e-2
    assert_equal(trained, module, {"input": x.numpy()})
    assert write_back(trained, to_module(trained)).SerializeToString() == trained.SerializeToString()


AWKWARD = ["a", "a.b", "half", "x.half.y", "x..y", ".z", "w.", "100%", "50%25", "onnx::Conv_7", "/p/q.1", "é.ü", "keys"]


def test_names_are_keys_where_pytorch_admits_them() -> None:
    keys = state_keys(AWKWARD)
    assert {name: key for name, key in keys.items() if name != key} == {
        "a.b": "a%2Eb",
        "half": "%68alf",
        "x.half.y": "x.%68alf.y",
        "x..y": "x%2E%2Ey",
        ".z": "%2Ez",
        "w.": "w%2E",
        "100%": "100%25",
        "50%25": "50%2525",
        "keys": "%6Beys",
    }
    assert [initializer_name(key) for key in keys.values()] == AWKWARD


def test_awkward_names_survive() -> None:
    """A chain of sums, one for each name."""
    tensors = ["x", *(f"s{i}" for i in range(len(AWKWARD)))]
    nodes = [node("Add", [tensors[i], name], [tensors[i + 1]]) for i, name in enumerate(AWKWARD)]
    model = build_model(nodes, {"x": (2, 3)}, [tensors[-1]], dict.fromkeys(AWKWARD, (3,)))
    module = to_module(model)
    assert {initializer_name(key) for key, _ in module.named_parameters()} == set(AWKWARD)
    assert set(module.state_dict()) == set(module.keys.values())
    assert_equal(model, module, {"x": np.ones((2, 3), np.float32)})
    other = to_module(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(2.0)
    module.load_state_dict(other.state_dict())
    back = write_back(model, module)
    assert all((numpy_helper.to_array(t) == 2).all() for t in back.graph.initializer)
    copied = copy.deepcopy(module)
    assert torch.equal(copied(torch.ones(2, 3))[tensors[-1]], module(torch.ones(2, 3))[tensors[-1]])


def normalized_model(**attributes: float) -> onnx.ModelProto:
    """A BatchNormalization between two products."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("BatchNormalization", ["a", "scale", "bias", "bn.mean", "bn.var"], ["b"], **attributes),
        node("Dropout", ["b", "ratio"], ["c"]),
        node("MatMul", ["c", "w2"], ["y"]),
    ]
    weights = {"w1": (6, 5), "scale": (5,), "bias": (5,), "bn.mean": (5,), "w2": (5, 3)}
    fixed = {"bn.var": np.full(5, 0.7, np.float32), "ratio": np.array(0.5, np.float32)}
    return build_model(nodes, {"x": ("N", 6)}, ["y"], {**weights, **fixed}, opset=17)


def test_batch_normalization_trains_as_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = normalized_model(momentum=0.8, epsilon=1e-3)
    del model.graph.node[2]
    model.graph.node[2].input[0] = "b"
    module = to_module(model).train()
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    bn = torch.nn.BatchNorm1d(5, eps=1e-3, momentum=0.2)
    names = {"weight": "scale", "bias": "bias", "running_mean": "bn.mean", "running_var": "bn.var"}
    state = module.state_dict()
    bn.load_state_dict({k: state[v] for k, v in names.items()}, strict=False)
    expected = bn(x @ state["w1"]) @ state["w2"]
    assert torch.allclose(module(x)["y"], expected, atol=1e-6)
    assert torch.allclose(module.state_dict()["bn.mean"], bn.running_mean)
    assert torch.allclose(module.state_dict()["bn.var"], bn.running_var)
    assert not any(p in dict(module.named_parameters()) for p in ("bn.mean", "bn.var"))
    trained = write_back(model, module.eval())
    assert_equal(trained, module, {"x": x.numpy()})
    stored = {t.name: numpy_helper.to_array(t) for t in trained.graph.initializer}
    assert np.array_equal(stored["bn.var"], bn.running_var.numpy())


def test_shared_statistics_stay() -> None:
    """Two normalizations with the same running mean cannot both follow their batches."""
    nodes = [
        node("BatchNormalization", ["x", "s1", "b1", "mean", "var"], ["a"]),
        node("BatchNormalization", ["a", "s2", "b2", "mean", "var"], ["y"]),
    ]
    weights = dict.fromkeys(("s1", "b1", "s2", "b2", "mean"), (4,))
    model = build_model(nodes, {"x": ("N", 4)}, ["y"], {**weights, "var": np.ones(4, np.float32)}, opset=15)
    module = to_module(model).train()
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    assert_equal(model, module, {"x": x})
    assert write_back(model, module).SerializeToString() == model.SerializeToString()


def test_dropout_drops_only_in_training() -> None:
    model = normalized_model()
    module = to_module(model)
    x = torch.ones(64, 6)
    assert torch.equal(module(x)["y"], module(x)["y"])
    module.train()
    torch.manual_seed(0)
    first, second = module(x)["y"], module(x)["y"]
    assert not torch.equal(first, second)


def test_what_is_trained() -> None:
    """Layers' own operands and what else is of more than one number; no masks, bounds, sizes or codes."""
    nodes = [
        node("Conv", ["x", "kernel"], ["a"]),
        node("Mul", ["a", "half"], ["b"]),
        node("Clip", ["b", "least", "most"], ["c"]),
        node("Add", ["c", "mask"], ["d"]),
        node("Softmax", ["d"], ["e"]),
        node("Mul", ["e", "scale"], ["f"]),
        node("Reshape", ["f", "shape"], ["g"]),
        node("MatMul", ["g", "one"], ["y"]),
    ]
    mask = np.where(np.eye(4) > 0, 0, -1e9).astype(np.float32)
    weights = {"kernel": (1, 1, 1, 1), "scale": (4, 1), "one": (1, 1), "mask": mask, "shape": np.array([-1, 1])}
    numbers = {"half": 0.5, "least": -1.0, "most": 9.0}
    weights |= {n: np.array(v, np.float32) for n, v in numbers.items()}
    model = build_model(nodes, {"x": (1, 1, 4, 4)}, ["y"], weights)
    module = to_module(model)
    assert {name for name, _ in module.named_parameters()} == {"kernel", "scale", "one"}
    assert set(module.state_dict()) == {"kernel", "scale", "one"}
    assert "%68alf" in dict(to_module(model, trainable=["half"]).named_parameters())
    with pytest.raises(UnknownNameError, match="no float tensor named 'shape'"):
        to_module(model, trainable=["shape"])


@pytest.mark.parametrize("elem", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("in_raw", [True, False])
def test_types_are_kept(elem: int, in_raw: bool) -> None:
    values = np.random.default_rng(0).standard_normal((4, 3))
    weight = helper.make_tensor("w", elem, (4, 3), values.ravel())
    if in_raw:
        weight = numpy_helper.from_array(numpy_helper.to_array(weight), "w")
    infos = [helper.make_tensor_value_info(n, elem, s) for n, s in (("x", (2, 4)), ("y", (2, 3)))]
    graph = helper.make_graph([node("MatMul", ["x", "w"], ["y"])], "g", infos[:1], infos[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    module = to_module(model)
    assert write_back(model, module).SerializeToString() == model.SerializeToString()
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    back = write_back(model, module).graph.initializer[0]
    assert back.data_type == elem
    doubled = 2 * numpy_helper.to_array(weight).astype(np.float64)
    assert np.array_equal(numpy_helper.to_array(back).astype(np.float64), doubled)


def test_weights_in_constant_nodes_are_trained() -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32))
    nodes = [node("Constant", [], ["w"], value=weight), node("MatMul", ["x", "w"], ["y"])]
    model = build_model(nodes, {"x": (2, 4)}, ["y"], {})
    module = to_module(model)
    assert [name for name, _ in module.named_parameters()] == ["w"]
    assert write_back(model, module).SerializeToString() == model.SerializeToString()
    with torch.no_grad():
        module.get_parameter("w").zero_()
    back = write_back(model, module)
    assert not numpy_helper.to_array(back.graph.node[0].attribute[0].t).any()


def test_functions_are_seen_through() -> None:
    body = [
        node("Constant", [], ["two"], value_float=2.0),
        node("Mul", ["a", "two"], ["b"]),
        node("MatMul", ["b", "w"], ["c"]),
    ]
    function = helper.make_function("own", "Twice", ["a", "w"], ["c"], body, [helper.make_opsetid("", 17)])
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (2, 4)), ("y", (2, 3)))]
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), "w")
    graph = helper.make_graph([node("Twice", ["x", "w"], ["y"], domain="own")], "g", infos[:1], infos[1:], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9)
    module = to_module(model)
    assert_equal(model, module, {"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    assert write_back(model, module).SerializeToString() == model.SerializeToString()


def loop_model(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    """Multiplies by a weight four times, keeping each, and adds it or not by the sign of the first element."""
    infos = [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("c", 9, []), ("s", 1, [2, 3]))]
    outs = [helper.make_tensor_value_info(n, t, s) for n, t, s in (("c2", 9, []), ("t", 1, [2, 3]), ("u", 1, [2, 3]))]
    inner = [node("Identity", ["c"], ["c2"]), node("MatMul", ["s", "w"], ["t"]), node("Identity", ["t"], ["u"])]
    body = helper.make_graph(inner, "body", infos, outs)
    branch = [helper.make_tensor_value_info("z", 1, [2, 3])]
    then = helper.make_graph([node("Add", ["end", "v"], ["z"])], "then", [], branch)
    other = helper.make_graph([node("Sub", ["end", "v"], ["z"])], "else", [], branch)
    nodes = [
        node("Loop", ["count", "", "x"], ["end", "every"], body=body),
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    weights = {"w": (3, 3), "v": (3,), "count": np.array(4), "zero": np.array(0, np.float32)}
    return build(nodes, {"x": (2, 3)}, ["y", "every"], weights, opset=17)


@pytest.mark.parametrize("sign", [1, -1])
def test_loops_and_branches(sign: int, build: Callable[..., onnx.ModelProto]) -> None:
    model = loop_model(build)
    module = to_module(model)
    feeds = {"x": sign * np.arange(1, 7, dtype=np.float32).reshape(2, 3)}
    assert_equal(model, module, feeds)
    sum(v.sum() for v in module(torch.from_numpy(feeds["x"])).values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_codes_pass_gradients_and_leave_as_codes() -> None:
    nodes = [
        node("QuantizeLinear", ["w", "s", "z"], ["wq"]),
        node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        node("MatMul", ["x", "wd"], ["y"]),
        node("QuantizeLinear", ["y", "s", "z"], ["q"]),
    ]
    codes = {"s": np.array(0.02, np.float32), "z": np.array(3, np.int8)}
    model = build_model(nodes, {"x": (2, 4)}, ["y"], {"w": (4, 3), **codes})
    model.graph.output.append(helper.make_tensor_value_info("q", TensorProto.INT8, (2, 3)))
    module = to_module(model)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    found = module(torch.from_numpy(feeds["x"]))
    assert [name for name, _ in module.named_parameters()] == ["w"]
    assert np.array_equal(found["q"].numpy(), run(model, feeds)[1])
    found["y"].sum().backward()
    expected = torch.from_numpy(feeds["x"].sum(0))[:, None].expand(4, 3)
    assert torch.allclose(module.get_parameter("w").grad, expected)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_sizes_stay_in_host_memory(name: str) -> None:
    """A device without any numbers stands for an accelerator, from which nothing may have to be read."""
    module = to_module(onnx.load(str(MODELS / f"{name}.onnx"))).to("meta").train()
    logits = module(torch.empty(1, 3, 32, 32, device="meta"))["logits"]
    assert (logits.device.type, tuple(logits.shape)) == ("meta", (1, 10))


def test_bounds_and_computed_shapes_stay_in_host_memory() -> None:
    nodes = [
        node("Clip", ["x", "least"], ["a"]),
        node("Resize", ["a", "", "twice"], ["b"]),
        node("Shape", ["b"], ["shape"]),
        node("Gather", ["shape", "first"], ["n"]),
        node("Concat", ["n", "rest"], ["new"], axis=0),
        node("Reshape", ["b", "new"], ["c"]),
        node("Gather", ["table", "places"], ["d"]),
        node("Add", ["c", "d"], ["y"]),
    ]
    weights = {"least": np.array(0.1, np.float32), "twice": np.array([1, 1, 2, 2], np.float32), "table": (12, 8)}
    integers = {"first": np.array([0]), "rest": np.array([-1, 8]), "places": np.arange(12)[None]}
    model = build_model(nodes, {"x": ("N", 3, 1, 8)}, ["y"], {**weights, **integers})
    x = np.random.default_rng(0).standard_normal((1, 3, 1, 8)).astype(np.float32)
    assert_equal(model, to_module(model), {"x": x})
    assert to_module(model).to("meta")(torch.empty(1, 3, 1, 8, device="meta"))["y"].device.type == "meta"


def test_inputs_by_name_or_in_order() -> None:
    model = build_model([node("Sub", ["a", "b"], ["y"])], {"a": (2,), "b": (2,)}, ["y"], {})
    module = to_module(model)
    a, b = torch.ones(2), torch.zeros(2)
    assert torch.equal(module({"b": b, "a": a})["y"], module(a, b)["y"])
    with pytest.raises(InputError, match="input 'b' is not given; the model takes a, b"):
        module(a)


def test_weights_of_another_model_are_refused() -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    module = to_module(build_model(nodes, {"x": (2, 4)}, ["y"], {"w": (4, 3)}))
    with pytest.raises(ModelError, match="stores no 'w' of shape"):
        write_back(build_model(nodes, {"x": (2, 4)}, ["y"], {"w": (4, 2)}), module)


def test_sparse_weights_are_refused() -> None:
    model = build_model([node("Relu", ["x"], ["y"])], {"x": (2, 4)}, ["y"], {})
    values = helper.make_tensor("s", TensorProto.FLOAT, (1,), [1.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, (1,), [0]), (4,))
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(ModelError, match="sparse initializer 's'.*dense"):
        to_module(model)
