"""cuDNN's plans of every group of int8 bodies, on GPUs that are described and need not be there."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import GroupPlans, Machine
from benchmarks.nvidia.cudnn.described_gpus import GPUS
from benchmarks.nvidia.cudnn.fused_groups import fuse_groups, operations_of
from benchmarks.nvidia.cudnn.operations import Operation
from benchmarks.nvidia.cudnn.programs import BODY
from benchmarks.nvidia.cudnn.stub_driver import stub_folder
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle

DESCRIBED = "described GPUs"
ROOT = Path(__file__).parents[3]
LIBRARIES = ("cudnn", "cu13")  # folders of nvidia's wheels
WHEELS = (
    "nvidia-cudnn-cu13, nvidia-cublas, nvidia-cuda-nvrtc, nvidia-cuda-runtime, nvidia-cudnn-frontend, cuda-bindings"
)


@dataclass(frozen=True)
class BodyOperation:
    """One operation of a body. count: how many groups are this operation."""

    denoiser: str
    operation: Operation
    count: int


def body_graphs(bundle: Path) -> list[Graph]:
    """The graphs of a bundle's int8 body for TensorRT: one, or one for each interval of steps.

    Raises UserError if the bundle has no such body.
    """
    opened = open_bundle(bundle)
    if BODY not in opened.manifest.bodies:
        raise UserError(f"{bundle} has no body {BODY}", "make it: fewstep calibrate BUNDLE --target tensorrt")
    return [io.load(opened.graph(entry), root=bundle) for entry in opened.manifest.bodies[BODY].graphs]


def body_operations(name: str, bundle: Path, batch: int) -> list[BodyOperation]:
    """The operations of all groups of a body, each once."""
    graphs = body_graphs(bundle)
    asked = []
    for number, graph in enumerate(graphs):
        every = list(operations_of(graph, fuse_groups(graph), batch).values())
        own = name if len(graphs) == 1 else f"{name}, graph {number + 1} of {len(graphs)}"
        asked += [BodyOperation(own, each, every.count(each)) for each in dict.fromkeys(every)]
    return asked


def ask_cudnn(asked: Sequence[BodyOperation], python: Path, cache: Path, date: str) -> Iterator[GroupPlans | Machine]:
    """Ask in a process of another environment, for all described GPUs.

    python: of the environment that has the wheels `WHEELS`. cache: a folder for the library without a driver.

    Raises UserError if cuDNN cannot be asked.
    """
    distinct = list(dict.fromkeys(each.operation for each in asked))
    request = {"gpus": GPUS, "operations": [each.encode() for each in distinct]}
    finished = subprocess.run(
        [python, "-m", "benchmarks.nvidia.cudnn.ask_plans"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(python, stub_folder(cache)),
    )
    if finished.returncode:
        said = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise UserError(f"cuDNN cannot be asked: {said[-1]}", f"give --python of an environment with {WHEELS}")
    versions, *answers = map(json.loads, finished.stdout.splitlines())
    yield Machine(
        DESCRIBED, {"cuDNN": format_version(versions["backend"]), "nvidia-cudnn-frontend": versions["frontend"]}, date
    )
    by_key = {(answer["gpu"], distinct[answer["operation"]]): answer for answer in answers}
    for gpu in GPUS:
        for each in asked:
            yield record_of(each, gpu, by_key[gpu, each.operation])


def environment(python: Path, stub: Path) -> dict[str, str]:
    """Variables of a process that loads cuDNN of an environment, with the library without a driver before any other."""
    folders = sorted(python.parents[1].glob("lib/python*/site-packages/nvidia/*/lib"))
    own = [str(folder) for folder in folders if folder.parent.name in LIBRARIES]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join([str(stub), *own]), "PYTHONPATH": str(ROOT)}


def record_of(each: BodyOperation, gpu: str, answer: Mapping[str, Any]) -> GroupPlans:
    """An answer as a line of results."""
    of = each.operation
    macs = each.count * of.macs
    fields = (each.denoiser, gpu, of.name, of.epilogue_text, of.precision, each.count, macs)
    return GroupPlans(*fields, engines=answer["engines"], reason=answer["reason"])


def format_version(version: int) -> str:
    """A version of cuDNN, such as 9.28.1 for 92801."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"
