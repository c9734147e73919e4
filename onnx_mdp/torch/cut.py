"""Makes a plan's cut in the PyTorch model that an ONNX model was exported from, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from onnx_mdp.errors import PlanError
from onnx_mdp.graph.network import Network, read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.groups.find import analyze
from onnx_mdp.rewrite.plan import read_plan
from onnx_mdp.torch.replaced import epsilons, replaced
from onnx_mdp.torch.sizes import check_layer, resize
from onnx_mdp.torch.tensors import to_torch

Names = Mapping[str, str | Sequence[str]]
Axes = Mapping[int, int]  # of the initializer -> of the parameter
Cuts = dict[str, dict[int, torch.Tensor]]  # parameter -> axis -> kept positions

_CROSSWISE = {0: 1, 1: 0}
_LISTED = 4  # parameters that a message names


def apply_plan(
    target: torch.nn.Module | Mapping[str, torch.Tensor],
    plan: str | Path | Mapping[str, Any],
    model: onnx.ModelProto | None = None,
    *,
    names: Names | None = None,
    shapes: Mapping[str, Shape] | None = None,
    pruned: onnx.ModelProto | None = None,
) -> Any:
    """The target with the cut of a plan: a new `state_dict`, or the module itself with new, smaller parameters.

    A module's sizes follow where PyTorch's own layers state them (`in_features`, `groups`, `normalized_shape` ...);
    those that a user's own module states, such as the number of heads that its forward splits by, are the user's to
    change: `plan["groups"]` has the new counts. Optimizers must be made anew. If anything fails, nothing is changed.

    Args:
        target: a module or its `state_dict`.
        plan: a file of `--plan`, or its content.
        model: the ONNX model that the plan was made for. With it, weights that the exporter renamed are found by
            their values, also transposed, and the branches of removed blocks are silenced: their last weights become
            zero, so that the module computes what the pruned model does. They can then be taken out of its code.
        names: parameters of initializers that have another name, or several: the bias of a layer that a
            BatchNormalization was folded into stands for the normalization's weight, bias and both running statistics.
            A constant of the exporter's own stands for no parameter, `()`.
        shapes: sizes of the model's dynamic inputs, as the plan was made for them.
        pruned: the model that `prune` wrote, or `onnx_mdp.apply` of the plan. With it weights that are more than a part
            of the dense ones come along: those of rotated streams, which their plans need, and those fitted anew. Of
            rotated streams a module's `eps` follows as well, which a `state_dict` has no place for.

    Raises:
        PlanError: a parameter cannot be found, fits no cut, or is cut in two ways; or the pruned model has weights
            that the target has no parameter for.
    """
    content = read_plan(Path(plan)) if isinstance(plan, str | Path) else plan
    _check(content, model, pruned)
    network = None if model is None else _network(model, shapes or {})
    module = target if isinstance(target, torch.nn.Module) else None
    state: dict[str, torch.Tensor] = dict(module.state_dict(keep_vars=True) if module is not None else target)
    finder = _Finder(state, network, names or {})
    cuts = _cuts(content, finder)
    found = {} if pruned is None or network is None else _written(replaced(network, content, pruned), finder)
    silent = {key for name in _silenced(content, network) for key, _ in finder.find(name)}
    for key in {**cuts, **dict.fromkeys(silent)}:
        found.setdefault(key, _cut(state[key].detach(), cuts.get(key, {})))
    found |= {key: torch.zeros_like(found[key]) for key in silent}
    if module is None:
        return {**state, **found}
    _replace(module, found, cuts)
    if pruned is not None and network is not None:
        _follow(module, epsilons(network, pruned), finder)
    return target


def _check(content: Mapping[str, Any], model: onnx.ModelProto | None, pruned: onnx.ModelProto | None) -> None:
    if pruned is not None and model is None:
        raise PlanError("pruned= is read by the names of the dense model's weights: give that as model=")
    if shortcuts := content.get("convolved"):
        raise PlanError(
            f"the plan makes a convolution of {shortcuts[0]!r}, which the PyTorch model does not have: plan with "
            "--no-lossless (lossless=False)"
        )
    changed = [*content.get("streams", ()), *content.get("selected", ())]
    if pruned is None and changed:
        raise PlanError(
            f"the plan changes what {changed[0]!r} computes before it cuts that, which its indices do not tell: "
            "give the dense model as model=, and the one that prune wrote, or onnx_mdp.apply makes, as pruned="
        )


def _written(others: Mapping[str, torch.Tensor], finder: _Finder) -> dict[str, torch.Tensor]:
    """The parameters of weights that a pruned model has otherwise, with its values."""
    found: dict[str, torch.Tensor] = {}
    for name, values in others.items():
        for key, places in finder.same(name):
            whole = finder.state[key]
            shape = list(whole.shape)
            for axis, place in places.items():
                shape[place] = values.shape[axis]
            moved = (values.T if places == _CROSSWISE else values).reshape(shape).to(whole)
            for alias in _aliases(finder.state, key):
                if not torch.equal(found.setdefault(alias, moved.clone()), moved):
                    raise PlanError(
                        f"the pruned model needs {alias!r} in two forms, the second for {name!r}: give each place a "
                        "parameter of its own, and export again"
                    )
    return found


def _follow(module: torch.nn.Module, found: Mapping[str, float], finder: _Finder) -> None:
    """Let normalizations have the epsilons of the pruned model."""
    for name, value in found.items():
        for key, _ in finder.find(name):
            layer = module.get_submodule(key.rpartition(".")[0])
            if hasattr(layer, "eps"):
                layer.eps = value


def _cuts(content: Mapping[str, Any], finder: _Finder) -> Cuts:
    cuts: Cuts = {}
    for name, axes in content["initializers"].items():
        if content.get("streams") and not finder.knows(name):
            continue  # the rotation made it, and it comes with its numbers
        for key, places in finder.find(name):
            for axis, kept in axes.items():
                place, positions = places.get(int(axis), int(axis)), torch.tensor(kept, dtype=torch.int64)
                size = finder.state[key].shape[place] if place < finder.state[key].dim() else 0
                if len(positions) and int(positions.max()) >= size:
                    raise PlanError(
                        f"the plan keeps index {int(positions.max())} of {name!r} axis {axis}, and {key!r} has {size} "
                        "there; was the plan made for another model? If not, name the parameter in names="
                    )
                for alias in _aliases(finder.state, key):
                    other = cuts.setdefault(alias, {}).setdefault(place, positions)
                    if not torch.equal(other, positions):
                        raise PlanError(f"the plan cuts {alias!r} axis {place} in two ways, the second for {name!r}")
    return cuts


def _aliases(state: Mapping[str, torch.Tensor], key: str) -> Iterator[str]:
    """All names of a parameter that several modules share."""
    own = state[key]
    for name, tensor in state.items():
        same_place = tensor.data_ptr() == own.data_ptr() and tensor.shape == own.shape and tensor.numel() > 0
        if name == key or same_place:
            yield name


def _cut(values: torch.Tensor, axes: Mapping[int, torch.Tensor]) -> torch.Tensor:
    for axis, kept in axes.items():
        values = values.index_select(axis, kept.to(values.device))
    return values.clone()


def _network(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> Network:
    """The model in normal form, in which plans name weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    normalize(copy, shapes)
    return read_network(copy, shapes)


def _silenced(content: Mapping[str, Any], network: Network | None) -> list[str]:
    """The weights that removed blocks end with."""
    removed = content.get("removed_blocks", ())
    if not removed:
        return []
    if network is None:
        raise PlanError(f"the plan removes block {removed[0]!r}: give model=, which tells what weights it ends with")
    blocks = {block.name: block for block in analyze(network).blocks}
    if unknown := [name for name in removed if name not in blocks]:
        raise PlanError(f"the plan removes block {unknown[0]!r}, which model= does not have; give the dense model")
    return list(dict.fromkeys(name for block in removed for name in blocks[block].silenced))


class _Finder:
    """Finds the parameters that an initializer stands for, and which of their axes are its axes."""

    def __init__(self, state: Mapping[str, torch.Tensor], network: Network | None, names: Names) -> None:
        self.state, self._names, self._network = state, names, network
        if missing := [key for name in names for key in self._named(name) if key not in state]:
            raise PlanError(f"names: there is no parameter {missing[0]!r}; there are {_some(state)}")

    def find(self, name: str) -> list[tuple[str, Axes]]:
        """The parameters; axes that are not told apart are the same."""
        if name in self._names:
            return [(key, self._axes(name, key) or {}) for key in self._named(name)]
        if name in self.state:
            if self._values(name) is not None and self._axes(name, name) is None:
                raise PlanError(
                    f"parameter {name!r} differs from the initializer of that name: the exporter folded another layer "
                    "into it, or it was trained since. Say in names= what it stands for, or leave out model="
                )
            return [(name, {})]
        return self._alike(name)

    def same(self, name: str) -> list[tuple[str, Axes]]:
        """The parameters, which have to hold the initializer's numbers and no others."""
        found = [(key, self._axes(name, key)) for key, _ in self.find(name)]
        different = next((key for key, places in found if places is None), None)
        if different or not found:
            why = f"{different!r} differs from it" if different else "no parameter stands for it"
            raise PlanError(
                f"the pruned model has other numbers for {name!r}, and {why}: export with a parameter for it "
                "(TrainingMode.PRESERVE folds nothing), or train the pruned model with onnx_mdp.torch.to_module"
            )
        return [(key, places) for key, places in found if places is not None]

    def knows(self, name: str) -> bool:
        """Whether the name is one of the model's or of the target's."""
        return name in self.state or name in self._names or self._network is None or name in self._network.weights

    def _named(self, name: str) -> list[str]:
        keys = self._names[name]
        return [keys] if isinstance(keys, str) else list(keys)

    def _alike(self, name: str) -> list[tuple[str, Axes]]:
        """The parameter of the same numbers; none for a row of equal numbers, which is the exporter's."""
        values = self._values(name)
        if values is None:
            why = f"there are {_some(self.state)}. Name it in names={{{name!r}: ...}}, or give model="
            raise PlanError(f"the plan cuts {name!r}, and no parameter has that name; {why}")
        axes = {key: self._axes(name, key) for key in self.state}
        found = [(key, places) for key, places in axes.items() if places is not None]
        distinct = {tuple(_aliases(self.state, key)) for key, _ in found}
        if len(distinct) == 1:
            return found[:1]
        if not found and _is_uniform(values):
            return []
        shape = "x".join(map(str, values.shape))
        raise PlanError(f"the plan cuts {name!r} ({shape}), no parameter's name: {_why(found)}; name it in names=")

    def _values(self, name: str) -> torch.Tensor | None:
        """The numbers of an initializer, if the model is given and they are floats."""
        if self._network is None or not self._network.is_float_weight(name):
            return None
        return to_torch(self._network.weights.stored(name))

    def _axes(self, name: str, key: str) -> Axes | None:
        """Where the initializer's axes lie in the parameter, if it holds the same numbers, maybe transposed."""
        values, given = self._values(name), self.state[key].detach().cpu()
        if values is None:
            return {}
        for places in _orders(values.shape, given.shape):
            moved = values.T if places == _CROSSWISE else values
            if torch.equal(moved.reshape(given.shape).to(given.dtype), given):
                return places
        return None


def _why(found: Sequence[tuple[str, Axes]]) -> str:
    if found:
        return f"{len(found)} parameters equal it, {_some(dict(found))}"
    return "none equals it. The exporter folded a BatchNormalization or another layer into it, or it was trained since"


def _is_uniform(values: torch.Tensor) -> bool:
    return bool((values == values.reshape(-1)[:1]).all())


def _orders(shape: torch.Size, other: torch.Size) -> Iterator[Axes]:
    """How axes may correspond: one by one but for those of size one, or crosswise in a matrix."""
    own, there = ([axis for axis, size in enumerate(sizes) if size != 1] for sizes in (shape, other))
    if [shape[axis] for axis in own] == [other[axis] for axis in there]:
        yield dict(zip(own, there, strict=True)) if len(shape) != len(other) else {a: a for a in range(len(shape))}
    if len(shape) == len(other) == 2 and tuple(shape) == tuple(other)[::-1]:
        yield _CROSSWISE


def _some(names: Mapping[str, Any]) -> str:
    listed = ", ".join(list(names)[:_LISTED])
    return f"{listed}, ..." if len(names) > _LISTED else listed


def _replace(module: torch.nn.Module, found: Mapping[str, torch.Tensor], cuts: Cuts) -> None:
    """Put the new parameters in place, one for all names that it had, and let the layers' sizes follow."""
    changed: dict[str, dict[str, dict[int, torch.Tensor]]] = {}
    for key, axes in cuts.items():
        owner, _, leaf = key.rpartition(".")
        check_layer(module.get_submodule(owner), owner)
        changed.setdefault(owner, {})[leaf] = axes
    made: dict[int, torch.nn.Parameter] = {}
    for key, values in found.items():
        owner, _, leaf = key.rpartition(".")
        place = module.get_submodule(owner)
        old = getattr(place, leaf)
        if isinstance(old, torch.nn.Parameter):
            made.setdefault(id(old), torch.nn.Parameter(values, requires_grad=old.requires_grad))
            setattr(place, leaf, made[id(old)])
        else:
            setattr(place, leaf, values)
    for owner, leaves in changed.items():
        resize(module.get_submodule(owner), leaves)
