"""Published systems: what each claims, and what it is worth on the shipped models and those of the zoo.

    python -m lab.claims --keep                   # all of it, into the pages
    python -m lab.claims --model fashion_mnist --seeds 16 --only SVDD

A line has the system's figure next to the plain way at equal evaluations of the network, and at equal milliseconds: the
plain way gets as many evaluations as take as long. A system pays if it is better at both, by twice the deviation of the
mean. Where the plain way has one number of evaluations, those decide. Nothing here was tuned on the seeds that it is
judged on. --keep puts each line into lab/claims.json, instead of the former one, and writes claims.md and the
figures of systems.md from all lines there. Each core takes a model after the other, in a process of one thread. Fits of
plans are a part of their own, since they take as long as all else of their model. A line that --work has of the same
tree is not measured again, so that an interrupted run goes on; nor is an unsteady one, but with another --work.
"""

import argparse
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import Queue

from benchmarks.distance_to_data import RisingDistance
from benchmarks.options import add_only, add_seeds, add_work, parser_of, refusing, seeds_of
from benchmarks.result_store import digest, kept
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cpu import physical_cores, usable_cores
from lab.claims import claim_lines, claim_ways, fit_ways, plan_ways, student_ways, systems
from lab.claims.claim import Claim
from lab.claims.claim_lines import Line, RefusedClaim
from lab.claims.measure_claim import judged, timed
from lab.claims.settings import FIRST_SEED, MODELS, opened

WAYS = {"fits": fit_ways.CLAIMS, "plans": [*claim_ways.CLAIMS, *plan_ways.CLAIMS, *student_ways.CLAIMS]}
CLAIMS = [claim for claims in WAYS.values() for claim in claims]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "lab/claims.md"
Part = tuple[str, str]  # a model and a key of WAYS: its claims, which a process measures one after the other
PARTS: list[Part] = [(model, ways) for ways in WAYS for model in MODELS]


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    add_seeds(parser, 64, FIRST_SEED)
    add_only(parser, "systems")
    add_work(parser, "claims")
    parser.add_argument("--keep", action="store_true", help="put the lines into the pages")
    options = parser.parse_args()
    with refusing(parser):
        seeds_of(options)  # that are held out, or refused now
        try:
            for line in in_processes(options):
                print(line, flush=True)
                if options.keep and isinstance(line, RefusedClaim):
                    claim_lines.drop(line.name)
                elif options.keep:
                    claim_lines.keep(line)
        finally:  # pages have what an interrupted run has kept
            if options.keep:
                write()
    return 0


def in_processes(options: argparse.Namespace) -> Iterator[Line | RefusedClaim]:
    """The lines of all parts as they are measured. A process a core takes a part after the other, the longest first.
    An error of one part is raised behind the lines of all others."""
    models = options.model or MODELS
    parts = longest_first(part for part in PARTS if part[0] in models and any(wanted(part, options.only)))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a second thread would take the other process's core
    context, work = get_context("spawn"), options.work / tree()
    cores = min(physical_cores() or usable_cores(), usable_cores())
    with context.Manager() as manager, ProcessPoolExecutor(cores, context) as pool:
        found: Queue[Line | RefusedClaim | None] = manager.Queue()
        jobs = [pool.submit(measure, part, work, options, found) for part in parts]
        for job in jobs:
            job.add_done_callback(lambda _: found.put(None))
        try:
            for _ in jobs:
                yield from iter(found.get, None)
        except BaseException:  # an interruption waits for the parts under way alone
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        for job in jobs:
            job.result()


def longest_first(parts: Iterable[Part]) -> list[Part]:
    """Fits, then models by the milliseconds of their kept lines."""
    taken = Counter[str]()
    for line in claim_lines.kept().lines:
        taken[line.model] += line.ours_ms + line.plain_ms
    return sorted(parts, key=lambda part: (part[1] != "fits", -taken[part[0]]))


def wanted(part: Part, only: Iterable[str] | None) -> Iterator[Claim]:
    """The claims of a part whose system has one of these words in its name; None for all."""
    model, ways = part
    for claim in WAYS[ways]:
        if model in claim.models and (not only or any(each.lower() in claim.system.lower() for each in only)):
            yield claim


def measure(part: Part, work: Path, options: argparse.Namespace, found: "Queue[Line | RefusedClaim | None]") -> None:
    """Put the lines of a part's claims: those that the folder has as they are, and others measured."""
    seeds, (model, ways) = seeds_of(options), part
    setting = opened(model, work / ways, seeds)
    for claim in wanted(part, options.only):
        find = partial(lambda each: judged(model, setting, each, *timed(setting, each)), claim)
        name = model, claim.system, claim.figure, claim.control
        try:
            found.put(kept(work / "lines", Line, find, model, seeds, *name[1:]))
        except RisingDistance as error:
            found.put(RefusedClaim(name, str(error)))


def tree() -> str:
    """Twelve digits of the commit, of what is changed on it but for the pages that a run writes, and of the machine.
    UserError outside a repository."""
    asked = (["rev-parse", "HEAD"], ["diff", "HEAD", "--", ".", ":!docs"])
    answers = [subprocess.run(["git", *each], cwd=ROOT, capture_output=True) for each in asked]
    if any(each.returncode for each in answers):
        raise UserError(f"{ROOT} is not a git repository", "measure in a checkout")
    return digest(claim_lines.machine(), *(each.stdout for each in answers))


def write() -> None:
    """claims.md and the figures of systems.md, from the lines that are kept."""
    kept = claim_lines.kept()
    PAGE.write_text(claim_lines.written(kept))
    systems.PAGE.write_text(systems.renewed(systems.PAGE.read_text(), kept.lines))
