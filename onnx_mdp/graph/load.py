"""Reading a model: from a file or from memory, with its external data, checked before anything relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from onnx_mdp.errors import ExternalDataError, ModelError, NotOnnxError
from onnx_mdp.graph.check import Signature, parameter_count, signature

PROTOBUF_LIMIT = 2**31 - 1


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
    """

    name: str
    reference: str | bytes
    path: Path | None
    external: bool
    signature: tuple[Signature, Signature]
    parameters: int
    size: int


def load(model: str | Path | onnx.ModelProto) -> tuple[Source, onnx.ModelProto]:
    """The model as it was given, and a copy with all of its weights in memory that is the caller's to change.

    Raises:
        NotOnnxError: the file does not exist, is no ONNX model, or is cut short.
        ExternalDataError: weights kept in other files are missing or cut short.
        ModelError: the model breaks the ONNX specification.
    """
    if isinstance(model, onnx.ModelProto):
        data = model.SerializeToString()
        return _source(onnx.ModelProto.FromString(data), model.graph.name or "the model", data, None)
    path = Path(model)
    proto = _parse(path)
    return _source(proto, str(path), str(path), path)


def _source(
    proto: onnx.ModelProto, name: str, reference: str | bytes, path: Path | None
) -> tuple[Source, onnx.ModelProto]:
    external = any(uses_external_data(tensor) for tensor in proto.graph.initializer)
    if external and path is None:
        raise ExternalDataError(f"{name}: its weights lie in other files; give the path of the .onnx file instead")
    if external and path:
        _load_external(proto, path)
    _check(reference, name)
    size = proto.ByteSize() if external else path.stat().st_size if path else len(reference)
    return Source(name, reference, path, external, signature(proto), parameter_count(proto), size), proto


def _parse(path: Path) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotOnnxError(f"{path}: no such file") from error
    except OSError as error:
        raise NotOnnxError(f"{path}: cannot be read ({error.strerror})") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        problem = f"not an ONNX model, or cut short ({len(data)} bytes); export or copy it again"
        raise NotOnnxError(f"{path}: {problem}") from error
    if not proto.graph.node or not proto.opset_import:
        raise NotOnnxError(f"{path}: not an ONNX model (no graph in it); give the .onnx file itself")
    return proto


def _load_external(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = folder / entries.get("location", "?")
        if uses_external_data(tensor) and not place.is_file():
            raise ExternalDataError(f"{path}: the data of {tensor.name!r} is missing; copy {place} beside the model")
    try:
        load_external_data_for_model(proto, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExternalDataError(f"{path}: external data cannot be read: {_first_line(error)}") from error


def _check(model: str | bytes, name: str) -> None:
    """Check a path or bytes: a parsed model would be written out again for it, which takes ten times as long."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{name}: not valid ONNX: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
