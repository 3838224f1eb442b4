"""Python packages: which are installed, and which extra brings those that are not."""

import importlib
import importlib.util
from importlib import metadata

import msgspec

BASE = ("numpy", "msgspec", "safetensors")
EXTRAS = {  # extra -> what it is for, and its packages; a test holds this against pyproject.toml
    "cpu": ("run a bundle on the CPU", ("onnxruntime",)),
    "gpu": ("the same from onnxruntime-gpu, instead of cpu", ("onnxruntime-gpu",)),
    "cli": ("this command", ("typer", "rich", "Pillow")),
    "text": ("prompts, for bundles with a text encoder", ("tokenizers",)),
    "export": ("fewstep export", ("torch", "onnx", "onnxscript", "onnxruntime")),
    "hub": ("fewstep export ORG/NAME", ("huggingface_hub",)),
    "calibration": ("fewstep calibrate, report, inspect, bench", ("onnx", "onnxruntime", "Pillow")),
    "cluster": ("workers of a Dask cluster", ("distributed",)),
    "tensorrt-rtx": ("engines for NVIDIA RTX", ("tensorrt-rtx", "cuda-bindings")),
    "tensorrt": ("engines of TensorRT, and their check", ("tensorrt", "cuda-bindings", "polygraphy")),
    "openvino": ("run a bundle on OpenVINO", ("openvino",)),
    "qnn": ("run a bundle on Qualcomm's Hexagon", ("onnxruntime-qnn",)),
}
JETPACK = "tensorrt"  # what a Jetson has from its system, where the extra leaves it out
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # two packages that install one module


class OnnxRuntimeImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of importing onnxruntime. `error` says why it failed."""

    version: str
    providers: tuple[str, ...]
    error: str


def installed_versions() -> dict[str, str]:
    """Version of every package that fewstep can use and that is there."""
    names = dict.fromkeys((*BASE, *(name for _, packages in EXTRAS.values() for name in packages)))
    return {name: version for name in names if (version := version_of(name)) is not None}


def missing_packages(packages: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Per extra what it lacks. onnxruntime-gpu counts as onnxruntime: it is the same module."""
    there = {*packages, *(("onnxruntime",) if "onnxruntime-gpu" in packages else ())}
    lacking = {extra: tuple(name for name in wanted if name not in there) for extra, (_, wanted) in EXTRAS.items()}
    return {extra: names for extra, names in lacking.items() if names}


def version_of(package: str) -> str | None:
    """The version of an installed package; None for fewstep too where it runs from a checkout."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def this_onnxruntime() -> OnnxRuntimeImport | None:
    """Import onnxruntime, and see. None if it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    try:
        module = importlib.import_module("onnxruntime")
        return OnnxRuntimeImport(module.__version__, tuple(module.get_available_providers()), "")
    except Exception as error:  # a library of the system may be missing, or two packages lie over each other
        return OnnxRuntimeImport("", (), (str(error).strip().splitlines() or [type(error).__name__])[0])
