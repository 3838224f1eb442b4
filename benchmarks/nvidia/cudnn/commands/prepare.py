"""Writes the files that the GPU machine needs for each denoiser: the fused graph, and reference samples from the
CPU."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import options
from benchmarks.nvidia.cudnn.bundles import MODELS
from benchmarks.nvidia.cudnn.prepare import prepare
from benchmarks.nvidia.int8_forms import KNOWN


def main(given: Sequence[str]) -> None:
    """The verb `prepare`."""
    parser = options.parser_of(__doc__, "prepare")
    parser.add_argument("--model", action="append", choices=tuple(KNOWN), help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--programs", type=Path, required=True, help="output folder")
    options.add_work(parser, "cudnn")
    arguments = parser.parse_args(given)
    with options.refusing(parser):
        for name in arguments.model or MODELS:
            print(f"wrote {prepare(name, arguments.work, arguments.programs)}", flush=True)
