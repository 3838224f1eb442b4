"""Measure the claims of published systems on the shipped models and on those of the zoo.

    python -m lab.claims --keep --data package    # all claims, and write the pages; the folder of CIFAR-10
    python -m lab.claims --model fashion_mnist --seeds 16 --only SVDD

A line compares the system's figure with that of the plain way, at equal evaluations of the network and at equal
milliseconds. For the latter, the plain way gets the number of evaluations that takes the same time. A system pays if it
is better at both, by twice the standard error of the mean. If the plain way has a fixed number of evaluations, that
comparison decides. Nothing was tuned on the seeds used for judging. --keep stores each line in lab/claims.json, in
place of the previous one, and writes claims.md and the verdicts of systems.md from all lines there. Each core measures
one model after the other, each in a process with one thread, whose memory is free at its end. Fits of plans are
separate parts, since they take as long as all other claims of their model. A line that the folder of --work has for the
same tree is not measured again, so an interrupted run can be continued. This also applies to unsteady lines; use
another --work to repeat them.
"""

import argparse
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import Queue

from benchmarks.options import add_only, add_seeds, add_work, parser_of, refusing, seeds_of
from benchmarks.result_store import digest, load_or_compute
from fewstep.models.cifar10.data import HOW_TO_GET
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cpu import default_threads
from lab.claims import claim_lines, claim_ways, edit_ways, fit_ways, plan_ways, student_ways, systems
from lab.claims.claim import FD, Claim
from lab.claims.claim_lines import Line, RefusedClaim
from lab.claims.directions import Direction, key_of, measure_direction, pairs_of, prefer_more_seeds
from lab.claims.measure_claim import judge_claim, time_ways
from lab.claims.settings import FIRST_SEED, MODELS, open_setting

WAYS = {
    "fits": fit_ways.CLAIMS,
    "plans": [*claim_ways.CLAIMS, *edit_ways.CLAIMS, *plan_ways.CLAIMS, *student_ways.CLAIMS],
}
CLAIMS = [claim for claims in WAYS.values() for claim in claims]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "lab/claims.md"
WRITTEN = (claim_lines.KEPT, PAGE, systems.PAGE)  # by a run with --keep
Part = tuple[str, str]  # a model and a key of WAYS; a process measures their claims one after the other
Found = Line | Direction | RefusedClaim
PARTS: list[Part] = [(model, ways) for ways in WAYS for model in MODELS]


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    add_seeds(parser, 64, FIRST_SEED)
    add_only(parser, "systems or figures")
    add_work(parser, "claims")
    parser.add_argument("--data", type=Path, help=f"folder of CIFAR-10, for FD of its model: {HOW_TO_GET}")
    parser.add_argument("--keep", action="store_true", help="put the lines into the pages")
    options = parser.parse_args()
    with refusing(parser):
        seeds_of(options)  # seeds that are held out, or claims that are refused now
        check_data(options)
        try:
            for found in in_processes(options):
                print(found, flush=True)
                if options.keep:
                    store(found)
        finally:  # an interrupted run also writes the pages, from the lines that it stored
            if options.keep:
                write()
    return 0


def store(found: Found) -> None:
    """Store a line or a direction, or remove the line of a claim that is refused."""
    match found:
        case Line():
            claim_lines.keep(found)
        case Direction():
            claim_lines.keep_direction(found)
        case RefusedClaim():
            claim_lines.drop(found.name)


def in_processes(options: argparse.Namespace) -> Iterator[Found]:
    """Yield the lines of all parts as they are measured. Each part has a process, one per core at a time, the longest
    parts first. An error of a part is raised after the lines of all others."""
    models = options.model or MODELS
    parts = longest_first(part for part in PARTS if part[0] in models and any(select_claims(part, options.only)))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a second thread would use another process's core
    context, work = get_context("spawn"), options.work / tree()
    cores = default_threads()
    with context.Manager() as manager, ProcessPoolExecutor(cores, context, max_tasks_per_child=1) as pool:
        found: Queue[Found | None] = manager.Queue()
        jobs = [pool.submit(measure, part, work, options, found) for part in parts]
        for job in jobs:
            job.add_done_callback(lambda _: found.put(None))
        try:
            for _ in jobs:
                while (each := found.get()) is not None:
                    yield each
        except BaseException:  # an interruption only waits for the parts in progress
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        for job in jobs:
            job.result()


def check_data(options: argparse.Namespace) -> None:
    """Raise UserError if a claim compares with the pictures of CIFAR-10, and no folder of them is given."""
    if "cifar10" in (options.model or MODELS) and options.data is None:
        claims = (claim for ways in WAYS for claim in select_claims(("cifar10", ways), options.only))
        if system := next((claim.system for claim in claims if claim.figure == FD.name), None):
            raise UserError(f"{system} is compared with the pictures of CIFAR-10", HOW_TO_GET)


def longest_first(parts: Iterable[Part]) -> list[Part]:
    """Return the fits first, then the models, slowest first by the times in the stored lines."""
    taken = defaultdict[str, float](float)
    for line in claim_lines.load_kept().lines:
        taken[line.model] += line.ours_ms + line.plain_ms
    return sorted(parts, key=lambda part: (part[1] != "fits", -taken[part[0]]))


def select_claims(part: Part, only: Iterable[str] | None) -> Iterator[Claim]:
    """Yield the claims of a part with one of these words in `SYSTEM, FIGURE`; all claims for None."""
    model, ways = part
    for claim in WAYS[ways]:
        name = f"{claim.system}, {claim.figure}".lower()
        if model in claim.models and (not only or any(word.lower() in name for word in only)):
            yield claim


def measure(part: Part, work: Path, options: argparse.Namespace, found: "Queue[Found | None]") -> None:
    """Put the lines of a part's claims into the queue: from the folder if they are there, otherwise by measuring. A
    claim is refused if its figure gets worse with steps of one of its samplers, by this run or a stored one of more
    seeds. The first such sampler ends the search."""
    seeds, (model, ways) = seeds_of(options), part
    setting = open_setting(model, work / ways, seeds, options.data)
    for claim in select_claims(part, options.only):
        name = model, claim.system, claim.figure, claim.control
        for pair in pairs_of(model, claim):
            measured = partial(measure_direction, model, setting, claim, pair)
            key = key_of(model, claim.figure, pair)
            direction = load_or_compute(work / "directions", Direction, measured, seeds.start, *key)
            direction = prefer_more_seeds(direction, claim_lines.load_kept().directions)
            found.put(direction)
            if direction.is_wrong:
                found.put(RefusedClaim(name, f"{direction}, so it rewards the errors of solvers"))
                break
        else:
            find = partial(lambda each: judge_claim(model, setting, each, *time_ways(setting, each)), claim)
            found.put(load_or_compute(work / "lines", Line, find, model, seeds, *name[1:]))


def tree() -> str:
    """Return a digest of twelve digits of the commit, of uncommitted changes other than the pages that a run writes,
    and of the machine. Raises UserError outside a repository."""
    written = [f":!{path.relative_to(ROOT)}" for path in WRITTEN]
    asked = (["rev-parse", "HEAD"], ["diff", "HEAD", "--", ".", *written])
    answers = [subprocess.run(["git", *each], cwd=ROOT, capture_output=True) for each in asked]
    if any(answer.returncode for answer in answers):
        raise UserError(f"{ROOT} is not a git repository", "measure in a checkout")
    return digest(claim_lines.machine(), *(answer.stdout for answer in answers))


def write() -> None:
    """Write claims.md and the verdicts of systems.md from the stored lines."""
    kept = claim_lines.load_kept()
    PAGE.write_text(claim_lines.make_page(kept))
    page = systems.with_headlines(systems.PAGE.read_text(), kept.lines)
    systems.PAGE.write_text(systems.renew_page(page, kept.lines))
