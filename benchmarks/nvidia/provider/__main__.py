"""Which kernels ONNX Runtime's CUDA provider launches for graphs, without a GPU.

    python -m benchmarks.nvidia.provider --python ENVIRONMENT/bin/python [--model cifar10] [--precision float16]

The environment has onnxruntime-gpu (0.3 GB). A GPU is described to it (`described_cuda.py`), and each graph is opened
as a sampler opens it on a GPU: the provider must have a kernel for every operation, and accept the graph as one CUDA
graph. Printed are the operations that are left after ONNX Runtime's own fusions, without views of memory, or why the
graph does not open. Nothing runs, so this says nothing of numbers or times.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import options
from benchmarks.gpu.deployed import deploy
from benchmarks.nvidia.int8_forms import KNOWN
from benchmarks.nvidia.provider.kernels import GraphToOpen, ask_provider
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.runtime.backends.onnxruntime_cuda import BODIES
from fewstep.runtime.backends.onnxruntime_cuda_form import find_form, has_contrib_norms
from fewstep.runtime.bundle.reading import open_bundle

MODELS = ("fashion_mnist", "cifar10", "dit_flow")


def main() -> int:
    """Print a table. The exit code is 1 if a graph does not open."""
    parser = options.parser_of(__doc__)
    parser.add_argument("file", nargs="*", type=Path, help="more graphs to open, such as those of `fewstep bake`")
    parser.add_argument("--python", type=Path, required=True, help="Python of the environment with onnxruntime-gpu")
    parser.add_argument("--model", action="append", choices=tuple(KNOWN), help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--precision", action="append", choices=tuple(BODIES), help="default: all")
    options.add_work(parser, "provider")
    arguments = parser.parse_args()
    models = arguments.model or (() if arguments.file else MODELS)
    with options.refusing(parser), TemporaryDirectory() as scratch:
        graphs = [graph for name in models for graph in graphs_of(name, arguments.precision or BODIES, arguments.work)]
        graphs += [GraphToOpen(file.name, file, has_contrib_norms(file)) for file in arguments.file]
        version, opened = ask_provider(graphs, arguments.python, arguments.work, Path(scratch))
    print(f"onnxruntime {version}")
    for each in opened:
        print(f"{each.name}: {each.problem or each.description}")
    return int(any(each.problem for each in opened))


def graphs_of(name: str, precisions: Iterable[Any], work: Path) -> Iterator[GraphToOpen]:
    """Yield the portable graph of each body of a denoiser, and its form, exported and built unless they are there."""
    path = deploy(name, work).bundle
    if not (path / "manifest.json").exists():
        export(ExportOptions(KNOWN[name].source, path))
    for precision in precisions:
        build(BuildOptions(path, "onnxruntime-cuda", precision=precision))
        bundle = open_bundle(path)
        yield GraphToOpen(f"{name}, {precision}", bundle.graph(bundle.body(precision).graph), False)
        form = find_form(bundle, precision)
        if form is not None:
            yield GraphToOpen(f"{name}, {precision}, form", form.file, form.has_channels_last)


if __name__ == "__main__":
    sys.exit(main())
