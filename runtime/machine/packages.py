"""Python packages: which ones are installed, and which extras of fewstep install the others."""

import importlib
import importlib.util
from importlib import metadata

import msgspec

BASE = ("numpy", "msgspec", "safetensors")
EXTRAS = {  # extra -> its purpose and its packages; a test compares this with pyproject.toml
    "cpu": ("run a bundle on the CPU", ("onnxruntime",)),
    "gpu": ("the same from onnxruntime-gpu, instead of cpu", ("onnxruntime-gpu",)),
    "cli": ("this command", ("typer", "rich", "Pillow")),
    "text": ("prompts, for bundles with a text encoder", ("tokenizers",)),
    "export": ("fewstep export", ("torch", "onnx", "onnxscript", "onnxruntime")),
    "hub": ("fewstep export and run ORG/NAME, push", ("huggingface_hub",)),
    "calibration": ("fewstep calibrate, report, inspect, measure", ("onnx", "onnxruntime", "Pillow")),
    "serve": ("fewstep serve", ("websockets", "grpcio")),
    "cluster": ("workers of a Dask cluster", ("distributed",)),
    "tensorrt-rtx": ("engines for NVIDIA RTX", ("tensorrt-rtx", "cuda-bindings")),
    "tensorrt": ("engines of TensorRT, and their check", ("tensorrt", "cuda-bindings", "polygraphy")),
    "openvino": ("run a bundle on OpenVINO", ("openvino",)),
    "qnn": ("run a bundle on Qualcomm's Hexagon", ("onnxruntime-qnn",)),
}
JETPACK = "tensorrt"  # the package that a Jetson's system provides, and so is left out of the extra there
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # two packages that install one module


class OnnxRuntimeImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of importing onnxruntime. `error` is the reason for a failure."""

    version: str
    providers: tuple[str, ...]
    error: str


def package_versions() -> dict[str, str]:
    """Return the version of every installed package that fewstep can use."""
    names = dict.fromkeys((*BASE, *(name for _, packages in EXTRAS.values() for name in packages)))
    return {name: version for name in names if (version := version_of(name)) is not None}


def missing_packages(packages: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the missing packages of each extra. onnxruntime-gpu counts as onnxruntime: it is the same module."""
    there = {*packages, *(("onnxruntime",) if "onnxruntime-gpu" in packages else ())}
    lacking = {extra: tuple(name for name in wanted if name not in there) for extra, (_, wanted) in EXTRAS.items()}
    return {extra: names for extra, names in lacking.items() if names}


def version_of(package: str) -> str | None:
    """Return the version of an installed package. None if it is not installed, which is also the case for fewstep
    itself when it runs from a checkout."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def this_onnxruntime() -> OnnxRuntimeImport | None:
    """Import onnxruntime and report the result. None if it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    try:
        module = importlib.import_module("onnxruntime")
        return OnnxRuntimeImport(module.__version__, tuple(module.get_available_providers()), "")
    except Exception as error:  # a system library may be missing, or two packages may overwrite each other's files
        return OnnxRuntimeImport("", (), (str(error).strip().splitlines() or [type(error).__name__])[0])
