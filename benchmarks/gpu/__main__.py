"""float16 and int8 on this machine's NVIDIA GPU: agreement with the CPU's samples, and times compared with torch's.

    python -m benchmarks.gpu --output FOLDER [--model fashion_mnist] [--part denoisers] [--minutes 8] [--rehearse]

It measures in parts, the most telling first, and appends a line to FOLDER/results.jsonl for whatever it finds:

    convolutions  cuDNN's fused int8 convolutions against half precision (needs nvidia-cudnn-frontend and torch)
    operators     operators of ONNX Runtime's CUDA provider, each without its launch
    denoisers     denoisers on ONNX Runtime, and on TensorRT or TensorRT-RTX where one is installed
    torch         the same networks compiled by torch

A run that is stopped keeps what it has, and what fails is a line that says why. --page FILE... writes
lab/measured/gpu.md from such lines, on any machine; of two lines about one thing the later counts, so that torch's
rows need not be made again. --work keeps the bundles, and --prepare makes there what another machine may use:
exported bundles and the CPU's samples.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import options
from benchmarks.gpu.deployed import Preparation
from benchmarks.gpu.machine import NO_GPU, describe_machine, seen
from benchmarks.gpu.page import page_of
from benchmarks.gpu.results import FILE, Results, read_results
from benchmarks.gpu.run import PARTS, Run, run_parts
from benchmarks.gpu.workers import run_jobs
from benchmarks.nvidia.int8_forms import BLOCK, KNOWN

PAGE = Path(__file__).parents[2] / "lab/measured/gpu.md"
MODELS = (
    "fashion_mnist",
    "cifar10",
    "dit_flow",
    BLOCK.name,
    "policy_unet1d",
    "text_unet_flow",
    "unet_edm_cifar",
    "convnext_v_cosine",
    "residual_outliers",
    "score_wide",
)


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("--model", action="append", choices=tuple(KNOWN), help="a denoiser (default: ten)")
    parser.add_argument("--part", action="append", choices=PARTS, help="a part of the run (default: all)")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help=f"folder of {FILE}")
    options.add_work(parser, "gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the run (default %(default)s)")
    parser.add_argument(
        "--prepare", action="store_true", help="write files that a machine with a GPU can use, and stop"
    )
    parser.add_argument("--rehearse", action="store_true", help="run without a GPU")
    parser.add_argument("--page", type=Path, nargs="+", metavar="FILE", help=f"write {PAGE.name} from these files")
    arguments = parser.parse_args(given)
    names, gpu = tuple(arguments.model or MODELS), seen()
    if arguments.page:
        with options.refusing(parser):
            PAGE.write_text(page_of(read_results(arguments.page)))
        print(f"wrote {PAGE}")
        return 0
    results = Results(arguments.output / FILE)
    if arguments.prepare:
        jobs = [Preparation(name, arguments.work, is_portable=True) for name in names]
        run_jobs(jobs, results.add, time.monotonic() + 60 * arguments.minutes)
        return 0
    if gpu is None and not arguments.rehearse:
        parser.error(NO_GPU)
    results.add(describe_machine(gpu))
    until = time.monotonic() + 60 * arguments.minutes
    device = "cpu" if gpu is None else "cuda"
    parts, scale = arguments.part or PARTS, arguments.minutes / 8
    run_parts(Run(names, arguments.work, results, until, device, scale, has_one_part=len(parts) == 1), parts)
    then = ": a rehearsal" if gpu is None else f"; --page {results.file} makes {PAGE.name} of it"
    print(f"wrote {results.file}{then}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
