"""Extractors, which map samples to the features for distances: shipped ones by name, or a user-supplied ONNX file.

An extractor has one input, float32 [batch, *x_shape] in model range [-1, 1]. Its output [batch, D] is named "features",
or is the only output. An extractor for tokens takes int64 ids, and decodes them itself.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.links import Home

NO_EXTRACTOR = "none"
OUTPUT = "features"
NEEDS = "an extractor takes float32 [batch, *x_shape], or int64 for tokens, and returns `features` [batch, D]"


@dataclass(frozen=True)
class ShippedExtractor:
    """An extractor that is shipped with fewstep, and the shipped denoiser for whose data it was trained."""

    name: str
    source: str

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"


SHIPPED = (
    ShippedExtractor("fashion-mnist-cnn", source="fashion_mnist"),
    ShippedExtractor("cifar10-cnn", source="cifar10"),
)


@dataclass(frozen=True)
class Extractor:
    """A loaded feature extractor: `extract(samples)` returns features. input, output: names of the graph's tensors."""

    name: str
    sha256: str
    graph: LoadedGraph
    input: str
    output: str

    def extract(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Map samples [B, *x_shape], clamped to model range as for display, or ids, to features [B, D]."""
        inputs = samples if samples.dtype == np.int64 else np.clip(samples, -1, 1).astype(np.float32)
        features = self.graph({self.input: np.ascontiguousarray(inputs)})[self.output]
        if features.ndim != 2 or len(features) != len(samples):
            raise UserError(f"extractor {self.name} returned features of shape {list(features.shape)}", NEEDS)
        if not np.isfinite(features).all():
            raise UserError(f"extractor {self.name} returned NaN or infinity", "check its weights, and the samples")
        return features


def default_extractor(manifest: Manifest) -> str:
    """Return the name of the shipped extractor for the bundle's data, or "none"."""
    return next(
        (extractor.name for extractor in SHIPPED if extractor.source == manifest.provenance.source), NO_EXTRACTOR
    )


def open_extractor(name: str, x_shape: tuple[int, ...], threads: int = 0, dtype: str = "float32") -> Extractor | None:
    """Load the shipped feature extractor `name`, or the one in the file `name`. Returns None for the name "none".

    Raises UserError if there is no such extractor, or if it cannot extract features of samples [B, *x_shape].
    """
    if name == NO_EXTRACTOR:
        return None
    shipped = next((extractor for extractor in SHIPPED if extractor.name == name), None)
    if shipped is not None:
        with as_file(files(__package__) / "extractors" / shipped.file) as path:
            return _open(path, shipped.name, x_shape, threads, dtype)
    if not name.endswith(".onnx"):
        names = ", ".join([*(extractor.name for extractor in SHIPPED), NO_EXTRACTOR])
        raise UserError(f"unknown features {name!r}", f"give one of {names}, or the path of an .onnx extractor")
    if not Path(name).is_file():
        raise UserError(f"there is no extractor {name}", "check the path")
    return _open(Path(name), Path(name).stem, x_shape, threads, dtype)


def _open(path: Path, name: str, x_shape: tuple[int, ...], threads: int, dtype: str) -> Extractor:
    """Open a graph, and test it on two samples of zeros: gray images, or tokens of id 0."""
    import onnx

    try:
        loaded = OnnxRuntime(threads=threads).open(path, home=Home(path.parent, path))
    except UserError as error:
        raise UserError(error.what, NEEDS) from error
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    outputs = [value.name for value in graph.output]
    if len(inputs) != 1 or not (OUTPUT in outputs or len(outputs) == 1):
        raise UserError(f"{path.name} has inputs {inputs} and outputs {outputs}", NEEDS)
    output = OUTPUT if OUTPUT in outputs else outputs[0]
    extractor = Extractor(name, hashlib.sha256(path.read_bytes()).hexdigest(), loaded, inputs[0], output)
    try:
        extractor.extract(np.zeros((2, *x_shape), dtype))
    except UserError as error:
        shape = "x".join(map(str, x_shape))
        raise UserError(f"{path.name} cannot extract features of samples of {shape}: {error.what}", NEEDS) from error
    return extractor
