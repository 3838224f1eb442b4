"""The options that scripts share, with the same meaning in each."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

from fewstep.measure.rollouts.seeds import HELD_OUT_SEEDS
from fewstep.plans.errors import UserError


def parser_of(doc: str | None, verb: str = "") -> argparse.ArgumentParser:
    """Return a parser of a script's options, or of those of one of its verbs, described by the first line."""
    spec = sys.modules["__main__"].__spec__  # of `python -m`, which Python before 3.14 calls __main__.py
    name = None if spec is None else f"python -m {spec.name.removesuffix('.__main__')} {verb}".rstrip()
    return argparse.ArgumentParser(prog=name, description=(doc or "").splitlines()[0])


def add_seeds(parser: argparse.ArgumentParser, count: int, first: int = 0) -> None:
    """Add `--seeds` and `--first-seed`: the held-out seeds that judge, by default `count` of them from `first` on."""
    parser.add_argument("--seeds", type=positive, default=count, help="held-out seeds (default %(default)s)")
    parser.add_argument("--first-seed", type=int, default=first, help="the first seed (default %(default)s)")


def seeds_of(arguments: argparse.Namespace) -> range:
    """Return the seeds of `add_seeds`. Raises UserError for seeds that are not held out."""
    seeds, last = range(arguments.first_seed, arguments.first_seed + arguments.seeds), HELD_OUT_SEEDS[-1]
    if seeds.start < HELD_OUT_SEEDS.start or seeds.stop > HELD_OUT_SEEDS.stop:
        raise UserError(f"seeds {seeds.start} to {seeds[-1]} are not held out", f"choose from 0 to {last}")
    return seeds


def add_work(parser: argparse.ArgumentParser, name: str | None = None) -> None:
    """Add `--work`: the folder from whose results an interrupted run continues. Without a `name` the default is
    None, and a script takes a temporary folder.
    """
    default = None if name is None else Path(gettempdir()) / f"fewstep-{name}"
    kept = "a folder that keeps everything" if name is None else "folder of what is kept (default %(default)s)"
    parser.add_argument("--work", type=Path, default=default, help=kept)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the recipe to train, the folder of its run, and `--data`."""
    parser.add_argument("recipe", help="FOLDER/NAME such as zoo/dit_flow, or a shipped denoiser")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--data", type=Path, help="folder of the data, if the recipe has no default")


def add_models(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add `--model`: the denoisers (default: all), each with its own plan."""
    parser.add_argument("--model", action="append", choices=list(names), help="a denoiser (default: all)")


def add_denoisers(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add `--model` and `--steps`: the denoisers and the numbers of steps of their plans (default: all)."""
    add_models(parser, names)
    parser.add_argument("--steps", action="append", type=positive, help="steps of the plan; may be repeated")


def add_only(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--only`: parts of the names of the measured objects (default: all)."""
    parser.add_argument("--only", action="append", default=[], help=f"{what} with this in their name")


def add_turns(parser: argparse.ArgumentParser, threads: int, rounds: int, seconds: float) -> None:
    """Add `--threads`, `--rounds` and `--turn-seconds` of contenders that take turns."""
    parser.add_argument("--threads", type=int, default=threads, help="threads of a call; 0 for all cores")
    parser.add_argument("--rounds", type=positive, default=rounds, help="number of turns (default %(default)s)")
    parser.add_argument("--turn-seconds", type=float, default=seconds, help="seconds of a turn (default %(default)s)")


def add_page(parser: argparse.ArgumentParser, page: Path) -> None:
    """Add `--page`: put the tables into this page of figures."""
    parser.add_argument("--page", action="store_true", help=f"put the tables into lab/measured/{page.name}")


def positive(text: str) -> int:
    """Parse a positive number."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def several(text: str) -> tuple[int, ...]:
    """Parse positive numbers with commas between them."""
    return tuple(map(positive, text.split(",")))


@contextmanager
def refusing(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the script at a UserError with its usage and one line, exit code 2."""
    try:
        yield
    except UserError as error:
        parser.error(str(error))
