"""Verdicts in a file, so that runs add up and a stopped one goes on; `verdicts.jsonl.gz` is that of the repository.

A line has the episodes of one contender, one task and one body. Contenders that agree in checkpoint, precision, plan
and loop are one, whatever their bodies: another calibration of the same weights is another draw of the same recipe.
`success_rates.py` begins with the repository's, writes its own after each block, and adds them with `--keep`. A file
whose name ends in `.gz` is compressed.
"""

import gzip
import os
from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import msgspec

from benchmarks.policy.experts import ROUTES
from benchmarks.policy.verdicts import Contender, Episode, Verdict, Verdicts

KEPT = Path(__file__).with_name("verdicts.jsonl.gz")
COMPRESSED = ".gz"
LETTERS: dict[str | None, str] = {None: "-", **{route: route[0] for route in ROUTES}}
NAMES = {letter: route for route, letter in LETTERS.items()}
HUNDREDTHS = 100  # seams and jerk contrasts are rounded to them


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """Verdicts by seed: `seeds` are ranges [first, end); the others have an entry for each seed of them in order.

    `solved` are ticks, `routes` letters, seam and both jerks hundredths; None and "-" stand for none. `worst` is empty
    if no episode has a worst jerk.
    """

    who: str
    digest: str
    weights: str | None
    task: str
    body: str | None
    seeds: list[tuple[int, int]]
    solved: list[int | None]
    routes: str
    seam: list[int | None]
    jerk: list[int | None]
    worst: list[int | None] = []


def read(file: Path = KEPT) -> dict[str, dict[Episode, Verdict]]:
    """All verdicts by the digest of their contender."""
    found: dict[str, dict[Episode, Verdict]] = defaultdict(dict)
    for line in _lines_of(file):
        seeds = [seed for first, end in line.seeds for seed in range(first, end)]
        columns = (line.solved, line.routes, line.seam, line.jerk, line.worst or [None] * len(seeds))
        for seed, solved, route, *smoothness in zip(seeds, *columns, strict=True):
            seam, jerk, worst = map(_exact, smoothness)
            verdict = Verdict(line.task, seed, solved, NAMES[route], seam, jerk, line.body, worst)
            found[line.digest][line.task, seed] = verdict
    return found


def keep(made: Iterable[tuple[Contender, Verdicts]], file: Path = KEPT) -> None:
    """Add verdicts to those that the file contains."""
    lines = {_place(line): line for line in _lines_of(file)}
    for contender, verdicts in made:
        lines = {place: line for place, line in lines.items() if line.digest != contender.digest}
        by_line = sorted(verdicts.values(), key=lambda verdict: (verdict.task, verdict.body or "", verdict.seed))
        for (task, body), group in groupby(by_line, lambda each: (each.task, each.body)):
            line = _line(contender, task, body, list(group))
            lines[_place(line)] = line
    partial = file.with_name(f"partial-{file.name}")
    text = b"".join(msgspec.json.encode(lines[place]) + b"\n" for place in sorted(lines))
    partial.write_bytes(gzip.compress(text, mtime=0) if file.suffix == COMPRESSED else text)  # equal lines, equal bytes
    os.replace(partial, file)


def _lines_of(file: Path) -> list[Line]:
    if not file.exists():
        return []
    text = file.read_bytes()
    text = gzip.decompress(text) if file.suffix == COMPRESSED else text
    return [msgspec.json.decode(line, type=Line) for line in text.splitlines()]


def _place(line: Line) -> tuple[str, ...]:
    return line.weights or "", line.who, line.digest, line.task, line.body or ""


def _line(contender: Contender, task: str, body: str | None, verdicts: list[Verdict]) -> Line:
    """A line of verdicts in the order of their seeds."""
    worst = [_round_value(each.worst_jerk) for each in verdicts]
    seeds = list[tuple[int, int]]()
    for verdict in verdicts:
        if seeds and seeds[-1][1] == verdict.seed:
            seeds[-1] = seeds[-1][0], verdict.seed + 1
        else:
            seeds.append((verdict.seed, verdict.seed + 1))
    return Line(
        contender.name,
        contender.digest,
        contender.weights,
        task,
        body,
        seeds,
        [each.solved for each in verdicts],
        "".join(LETTERS[each.route] for each in verdicts),
        [_round_value(each.seam) for each in verdicts],
        [_round_value(each.jerk_contrast) for each in verdicts],
        worst if any(value is not None for value in worst) else [],
    )


def _round_value(value: float | None) -> int | None:
    return None if value is None else round(HUNDREDTHS * value)


def _exact(value: int | None) -> float | None:
    return None if value is None else value / HUNDREDTHS
