"""Ways to run a large denoiser on a CPU. Each function opens one, and returns its call. It runs in its own process."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.large.networks import NETWORKS
from fewstep.measure.speed.contender_process import Call
from lab.races.take_turns import Opener


@dataclass(frozen=True)
class Way:
    """A contender: the function that opens it for a number of threads, and the files that it reads."""

    open: Opener
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.files)


def in_fewstep(bundle: Path, backend: str, body: str, feeds: Path, threads: int) -> Call:
    """Open a body of a bundle as the runtime does."""
    from fewstep.runtime.backends.registry import create_backend
    from fewstep.runtime.bundle.reading import open_bundle

    opened = open_bundle(bundle)
    network, given = create_backend(backend, threads).load(opened, body), dict(np.load(feeds))
    fed = {value.name: given[value.name] for value in opened.body(body).graph.inputs}
    return lambda: network(fed)


def in_openvino(graph: Path, precision: str, feeds: Path, threads: int) -> Call:
    """Open a graph in OpenVINO as its documentation does; `precision` "" is OpenVINO's default for this CPU."""
    import openvino

    given, core = dict(np.load(feeds)), openvino.Core()
    model = core.read_model(graph)
    names = {name for port in model.inputs for name in port.get_names()}
    fed = {name: array for name, array in given.items() if name in names}
    model.reshape({name: list(array.shape) for name, array in fed.items()})
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer(fed)


def in_torch(folder: Path, network: str, dtype: str, threads: int) -> Call:
    """Open diffusers' module in eager mode, with channels last."""
    import diffusers
    import torch

    torch.set_num_threads(threads)
    known = NETWORKS[network]
    part, kind = known.component
    loaded = getattr(diffusers, kind).from_pretrained(folder / part, torch_dtype=getattr(torch, dtype))
    module = loaded.eval().to(memory_format=torch.channels_last)
    x = torch.randn(1, 4, known.latent, known.latent, dtype=getattr(torch, dtype))
    given: dict[str, Any] = {"timestep": torch.tensor([500])}
    if "text" in known.conditions:
        given["encoder_hidden_states"] = torch.randn(1, *known.conditions["text"], dtype=x.dtype)
    if "class" in known.labels:
        given["class_labels"] = torch.tensor([known.labels["class"]])

    def call() -> object:
        with torch.inference_mode():
            return module(x, **given).sample

    return call


OURS = {
    "float32": ("onnxruntime",),
    "int8-cpu-x86": ("onnxruntime",),
    "int8-openvino": ("openvino", "openvino-bf16"),
    "int8-openvino-bf16": ("openvino-bf16",),
}


def all_ways(work: Path, network: str, nncf: Mapping[str, Path], threads: int) -> dict[str, Way]:
    """Return the contenders by name. `nncf` are the .xml files of NNCF's graphs by its settings."""
    from fewstep.runtime.bundle.reading import open_bundle

    bundle, feeds = open_bundle(work / "bundle"), work / "feeds.npz"
    files = {
        body: tuple(bundle.path / file for file in (entry.graph.file, *entry.graph.data))
        for body, entry in bundle.manifest.bodies.items()
    }
    ways = {
        f"fewstep {body}, {backend}": Way(partial(in_fewstep, bundle.path, backend, body, feeds, threads), files[body])
        for body, backends in OURS.items()
        for backend in backends
        if body in files
    }
    float_graph = files["float32"][0]
    for name, precision in (("default", ""), ("float32", "f32")):
        opener = partial(in_openvino, float_graph, precision, feeds, threads)
        ways[f"OpenVINO, {name}"] = Way(opener, files["float32"])
        for setting, graph in nncf.items():
            opener = partial(in_openvino, graph, precision, feeds, threads)
            ways[f"NNCF {setting}, rest {name}"] = Way(opener, (graph, graph.with_suffix(".bin")))
    weights = tuple((work / "pipeline" / NETWORKS[network].component[0]).glob("*.safetensors"))
    ways["torch bfloat16"] = Way(partial(in_torch, work / "pipeline", network, "bfloat16", threads), weights)
    return ways
