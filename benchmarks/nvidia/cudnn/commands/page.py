"""Writes lab/measured/cudnn.md from lines of earlier runs."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import options
from benchmarks.gpu.results import read_results
from benchmarks.nvidia.cudnn.page import page_of

PAGE = Path(__file__).parents[4] / "lab/measured/cudnn.md"


def main(given: Sequence[str]) -> None:
    """The verb `page`."""
    parser = options.parser_of(__doc__, "page")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="files written by `plans` and `run`")
    with options.refusing(parser):
        PAGE.write_text(page_of(list(read_results(parser.parse_args(given).files))))
    print(f"wrote {PAGE}")
