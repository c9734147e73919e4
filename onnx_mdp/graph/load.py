"""Reading a model: from a file or from memory, with its external data, checked before anything relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from onnx_mdp.errors import ExternalDataError, ModelError, NotOnnxError

PROTOBUF_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Source:
    """A model as it was given: `proto` holds all weights; `path` is None for a model from memory."""

    proto: onnx.ModelProto
    path: Path | None
    external: bool

    @property
    def name(self) -> str:
        """What messages call the model."""
        return str(self.path) if self.path else (self.proto.graph.name or "the model")

    @property
    def reference(self) -> str | bytes:
        """What a runtime loads to run the model as it was given."""
        return str(self.path) if self.path else self.proto.SerializeToString()


def load(model: str | Path | onnx.ModelProto) -> Source:
    """The model with all of its weights in memory.

    Raises:
        NotOnnxError: the file does not exist, is no ONNX model, or is cut short.
        ExternalDataError: weights kept in other files are missing or cut short.
        ModelError: the model breaks the ONNX specification.
    """
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        source = Source(copy, None, external=False)
        _check(source)
        return source
    path = Path(model)
    proto = _parse(path)
    tensors = list(proto.graph.initializer)
    external = any(uses_external_data(tensor) for tensor in tensors)
    if external:
        _load_external(proto, path)
    source = Source(proto, path, external)
    _check(source)
    return source


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


def _check(source: Source) -> None:
    try:
        if source.path and source.external:
            onnx.checker.check_model(str(source.path))
        else:
            onnx.checker.check_model(source.proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{source.name}: not valid ONNX: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
