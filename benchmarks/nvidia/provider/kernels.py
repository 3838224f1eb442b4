"""What ONNX Runtime's CUDA provider makes of graphs: the operations that it launches kernels for."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.nvidia.provider.described_cuda import build_described_cuda
from fewstep.graph.cuda.cuda_form import VIEWS
from fewstep.plans.errors import UserError

ROOT = Path(__file__).parents[3]
LIBRARY = "libonnxruntime_providers_cuda.so"


@dataclass(frozen=True)
class GraphToOpen:
    """A graph to open. has_channels_last: whether its convolutions have channels last."""

    name: str
    file: Path
    has_channels_last: bool


@dataclass(frozen=True)
class OpenedGraph:
    """The operations of an opened graph by name, without views. problem: why it does not open, or ""."""

    name: str
    operations: Counter[str]
    problem: str = ""

    @property
    def description(self) -> str:
        """Its number of operations, and each kind of them."""
        kinds = ", ".join(f"{count} {name}" for name, count in self.operations.most_common())
        return f"{self.operations.total()} kernels: {kinds}"


def ask_provider(
    graphs: Sequence[GraphToOpen], python: Path, cache: Path, scratch: Path
) -> tuple[str, list[OpenedGraph]]:
    """Open graphs in a process of another environment, which has onnxruntime-gpu; return its version and the graphs.

    cache: a folder for the described libraries. scratch: an empty folder. Raises UserError if the environment has no
    such package, or its process ends early.
    """
    library = next(python.parents[1].glob(f"lib/python*/site-packages/onnxruntime/capi/{LIBRARY}"), None)
    if library is None:
        raise UserError(f"{python} has no {LIBRARY}", "pip install onnxruntime-gpu in its environment")
    lines: list[dict[str, Any]] = [
        {"graph": str(each.file), "optimized": str(scratch / f"{number}.onnx"), "nhwc": each.has_channels_last}
        for number, each in enumerate(graphs)
    ]
    finished = subprocess.run(
        [python, ROOT / "benchmarks/nvidia/provider/open_graphs.py"],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(build_described_cuda(library, cache))},
    )
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    if finished.returncode or len(answers) != 1 + len(graphs):
        place = graphs[len(answers) - 1].name if 0 < len(answers) <= len(graphs) else "its start"
        said = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise UserError(f"the process ended at {place}: {said[-1]}", "open this graph alone, with --model or FILE")
    version, *problems = answers
    opened = [
        OpenedGraph(graph.name, Counter() if problem else count_kernels(Path(line["optimized"])), problem)
        for graph, line, problem in zip(graphs, lines, problems, strict=True)
    ]
    return version, opened


def count_kernels(file: Path) -> Counter[str]:
    """Return the operations of a graph that ONNX Runtime wrote, by domain and name, without views."""
    nodes = onnx.load(file, load_external_data=False).graph.node
    names = [(node.domain.rpartition(".")[2], node.op_type) for node in nodes if node.op_type not in VIEWS]
    return Counter(f"{domain}:{name}" if domain not in ("", "microsoft") else name for domain, name in names)
