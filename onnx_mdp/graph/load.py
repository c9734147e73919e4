"""Reading a model: from a file or from memory, with its external data, checked before anything relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from onnx_mdp.errors import ExternalDataError, ModelError, NotOnnxError
from onnx_mdp.graph.check import Signature, checkable, parameter_count, signature
from onnx_mdp.graph.contrib import in_standard_domain
from onnx_mdp.graph.weights import (
    PROTOBUF_LIMIT,
    is_big,
    is_large,
    model_bytes,
    refer,
    stored_bytes,
    structure,
    weight_bytes,
)


@dataclass(frozen=True)
class Source:
    """A model as it was given.

    Attributes:
        name: what messages call it.
        reference: what a runtime loads to run it: its path, or its bytes if it came from memory.
        path: its file, None if it came from memory.
        external: whether its weights lie in other files.
        signature: its inputs and outputs.
        parameters: number of floating point parameters.
        size: bytes of the model with its weights.
        structure: hash of all but the numbers in its weights.
    """

    name: str
    reference: str | bytes
    path: Path | None
    external: bool
    signature: tuple[Signature, Signature]
    parameters: int
    size: int
    structure: str


def load(model: str | Path | onnx.ModelProto) -> tuple[Source, onnx.ModelProto]:
    """The model as it was given, and a copy that is the caller's to change.

    The copy holds its weights, but for the big ones of a large model with external data, which stay in their files.

    Raises:
        NotOnnxError: the file does not exist, is no ONNX model, or is cut short.
        ExternalDataError: weights kept in other files are missing or cut short.
        ModelError: the model breaks the ONNX specification.
    """
    if isinstance(model, onnx.ModelProto):
        if weight_bytes(model) > PROTOBUF_LIMIT:
            raise ModelError(
                f"{model.graph.name or 'the model'}: holds {weight_bytes(model) / 1e9:.1f} GB, more than protobuf "
                "copies; write it with onnx.save(..., save_as_external_data=True) and give its path"
            )
        data = model.SerializeToString()
        name, problem = model.graph.name or "the model", _problem(data)
        return _source(onnx.ModelProto.FromString(data), name, data, None, problem)
    path = Path(model)
    problem = _problem(str(path)) if path.is_file() and path.stat().st_size <= PROTOBUF_LIMIT else None
    return _source(_parse(path), str(path), str(path), path, problem)


def _source(
    proto: onnx.ModelProto, name: str, reference: str | bytes, path: Path | None, problem: str | None
) -> tuple[Source, onnx.ModelProto]:
    external = any(uses_external_data(tensor) for tensor in proto.graph.initializer)
    if external and path is None:
        raise ExternalDataError(f"{name}: its weights lie in other files; give the path of the .onnx file instead")
    if external and path:
        _find_external(proto, path)
    known = not in_standard_domain(proto)
    if known and problem:
        raise ModelError(f"{name}: not valid ONNX: {problem}")
    if external and path:
        _load_external(proto, path)
    if not known and (problem := _problem(checkable(proto).SerializeToString())):
        raise ModelError(f"{name}: not valid ONNX: {problem}")
    size = model_bytes(proto) if external else path.stat().st_size if path else len(reference)
    counts = parameter_count(proto), size, structure(proto)
    return Source(name, reference, path, external, signature(proto), *counts), proto


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > PROTOBUF_LIMIT:
            problem = f"{size / 1e9:.1f} GB in one file, more than protobuf reads; export it with external data"
            raise NotOnnxError(f"{path}: {problem}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotOnnxError(f"{path}: no such file") from error
    except OSError as error:
        raise NotOnnxError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(path: Path) -> onnx.ModelProto:
    data = _read(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        problem = f"not an ONNX model, or cut short ({len(data)} bytes); export or copy it again"
        raise NotOnnxError(f"{path}: {problem}") from error
    if not proto.graph.node or not proto.opset_import:
        raise NotOnnxError(f"{path}: not an ONNX model (no graph in it); give the .onnx file itself")
    return proto


def _find_external(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    for tensor in filter(uses_external_data, proto.graph.initializer):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = folder / entries.get("location", "?")
        if not place.is_file():
            raise ExternalDataError(f"{path}: the data of {tensor.name!r} is missing; copy {place} beside the model")


def _load_external(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    external = [tensor for tensor in proto.graph.initializer if uses_external_data(tensor)]
    mapped = [tensor for tensor in external if is_big(tensor)] if is_large(proto) else []
    try:
        for tensor in mapped:
            _map(tensor, folder)
            tensor.data_location = onnx.TensorProto.DEFAULT  # or the next line would load it
        load_external_data_for_model(proto, str(folder))
        for tensor in mapped:
            tensor.data_location = onnx.TensorProto.EXTERNAL
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExternalDataError(f"{path}: external data cannot be read: {_first_line(error)}") from error


def _map(tensor: onnx.TensorProto, folder: Path) -> None:
    """Let a weight name its place for this process, once it is clear that all of it is there."""
    place = ExternalDataInfo(tensor)
    there, needed = (folder / place.location).stat().st_size - (place.offset or 0), stored_bytes(tensor)
    if there < needed or (place.length or needed) != needed:
        raise ValueError(f"{place.location} holds {max(there, 0)} of the {needed} bytes of {tensor.name!r}")
    refer(tensor, place.location, place.offset or 0, folder)


def _problem(model: str | bytes) -> str | None:
    """What makes a path or bytes no valid model; a parsed one would be written out again, in ten times the time.

    Asked before the model is parsed here: the checker makes a copy of its own, and gives it back.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
