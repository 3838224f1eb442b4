"""Asks cuDNN for the plans of every group of int8 bodies, on described GPUs."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import options
from benchmarks.gpu.results import FILE, Results
from benchmarks.nvidia.cudnn.bundles import MODELS, int8_bundle
from benchmarks.nvidia.cudnn.plans import ask_cudnn, body_operations
from benchmarks.nvidia.int8_forms import KNOWN


def main(given: Sequence[str]) -> None:
    """The verb `plans`: lines for all models, and those that have no plan on the screen."""
    parser = options.parser_of(__doc__, "plans")
    parser.add_argument("--model", action="append", choices=tuple(KNOWN), help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--python", type=Path, required=True, help="Python of the environment with cuDNN's wheels")
    parser.add_argument("--batch", type=options.positive, default=8, help="rows of a call (default %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("cudnn-results"), help=f"folder of {FILE}")
    options.add_work(parser, "cudnn")
    arguments = parser.parse_args(given)
    with options.refusing(parser):
        asked = [
            operation
            for name in arguments.model or MODELS
            for operation in body_operations(name, int8_bundle(name, arguments.work), arguments.batch)
        ]
        results = Results(arguments.output / FILE)
        for record in ask_cudnn(asked, arguments.python, arguments.work, time.strftime("%Y-%m-%d")):
            results.add(record)
            if getattr(record, "reason", ""):
                print(record)
    print(f"wrote {results.file}")
