"""ONNX Runtime's execution providers, as data: short names, packages and what they need. Imports no runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: as onnxruntime spells it.
        remedy: what to install where it is missing.
        library: start of the file name of its library inside onnxruntime; empty for what is always built in.
        plugin: the Python package that brings it as a plugin; empty for what onnxruntime itself brings.
        fallback: providers that take what it leaves, before the CPU.
        gpu: whether it needs an NVIDIA GPU, whose memory then holds the bound tensors.
        defaults: provider options that are set unless given.
        cache: the provider option that takes a folder to keep files in; empty for none.
        threads: the provider option that takes the number of CPU threads; empty for none.
        cpu_clock: whether at one thread all work is done by the calling thread, so that its CPU time is the latency.
        exact: whether float32 stays float32, rounded as on the CPU.
    """

    name: str
    remedy: str = ""
    library: str = ""
    plugin: str = ""
    fallback: tuple[str, ...] = ()
    gpu: bool = False
    defaults: dict[str, str] = field(default_factory=dict)
    cache: str = ""
    threads: str = ""
    cpu_clock: bool = False
    exact: bool = False


CPU = Provider("CPUExecutionProvider", cpu_clock=True, exact=True)

# Providers' own defaults are kept, TF32 among them, since that is how the model will be deployed.
PROVIDERS: dict[str, Provider] = {
    "cpu": CPU,
    "cuda": Provider(
        "CUDAExecutionProvider",
        remedy="pip install 'onnx-mdp[gpu]' in place of onnxruntime",
        library="onnxruntime_providers_cuda",
        gpu=True,
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        remedy="pip install 'onnx-mdp[gpu,tensorrt]' in place of onnxruntime",
        library="onnxruntime_providers_tensorrt",
        fallback=("CUDAExecutionProvider",),
        gpu=True,
        defaults={"trt_timing_cache_enable": "1"},
        cache="trt_timing_cache_path",
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        remedy="pip install onnxruntime-openvino in place of onnxruntime",
        library="onnxruntime_providers_openvino",
        defaults={"device_type": "CPU"},
        threads="num_of_threads",
        cpu_clock=True,
    ),
    "tensorrt-rtx": Provider(
        "NvTensorRTRTXExecutionProvider",
        remedy="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13 beside onnxruntime 1.24 or newer",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
        gpu=True,
    ),
}


def find_provider(name: str) -> Provider:
    """The provider of a short name, or of onnxruntime's name with or without `ExecutionProvider`, in any case."""
    short = (name or "cpu").lower().removesuffix("executionprovider")
    by_name = {provider.name.lower().removesuffix("executionprovider"): provider for provider in PROVIDERS.values()}
    return PROVIDERS.get(short) or by_name.get(short) or Provider(name)


def missing(provider: Provider) -> str:
    """What to do about a provider whose package is not installed; empty if it is, or if only onnxruntime can tell."""
    if provider.plugin and find_spec(provider.plugin) is None:
        return provider.remedy
    if provider.library and library_file(provider) is None:
        return provider.remedy
    return ""


def library_file(provider: Provider) -> Path | None:
    """The library of a provider inside the installed onnxruntime, without importing it."""
    spec = find_spec("onnxruntime")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    if not provider.library:
        return None
    found = [file for folder in folders for file in (folder / "capi").glob(f"*{provider.library}*")]
    return found[0] if found else None
