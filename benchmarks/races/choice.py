"""The engine that `fewstep choose` takes, from cold: how often it is within 3 % of a body's fastest on this machine.

    python -m benchmarks.races.choice BUNDLE [--body int8-cpu-x86] [--rows 2] [--trials 20] [--threads 0]

Each trial is a process of its own with an empty cache. It chooses among what is installed. All candidates are then
called in turns, each in a process of its own. A trial passes where the chosen one is at most 3 % slower than the
fastest there. The ratio of two is the median over turns of ratios of wall times, since the choice is of wall time. The
lines also have the processor's time, which other programs move little. Returns 1 if a trial fails. The machine should
do nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from benchmarks.options import add_turns, parser_of, positive, refusing
from benchmarks.races.turns import Call, in_turns
from fewstep.plans.errors import UserError
from fewstep.report.choosing.engines import TimedEngine, backend_of, engine_name
from fewstep.runtime.backends import graph_of
from fewstep.runtime.backends.openvino_agreement import drawn
from fewstep.runtime.bundle.reading import open_bundle

BAR = 1.03

CHOOSE = """
import json, sys
import msgspec
from fewstep.report.choosing.engines import engines_of
from fewstep.runtime.bundle.reading import open_bundle
path, body, rows, threads = sys.argv[1:]
kept = engines_of(open_bundle(path), body, int(rows), int(threads))
print(json.dumps([msgspec.to_builtins(each) for each in kept.timed]))
"""


def chosen(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What `engines_of` timed in a process with an empty cache, the chosen one first."""
    with TemporaryDirectory() as folder:
        given = [str(options.bundle), options.body, str(options.rows), str(options.threads)]
        command = [sys.executable, "-c", CHOOSE, *given]
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"a trial failed: {line.rpartition('UserError: ')[2]}", "try fewstep choose on the bundle")
    timed: list[dict[str, Any]] = json.loads(done.stdout)
    return timed


def opened(path: Path, body: str, candidate: TimedEngine, rows: int) -> Call:
    bundle = open_bundle(path)
    network = backend_of(candidate, rows).load(bundle, body)
    fed = drawn(graph_of(bundle, body), {"batch": rows}, 0)
    return lambda: network(fed)


def called(candidate: TimedEngine) -> str:
    return engine_name(candidate.backend, candidate.threads, candidate.spinning)


def trial(options: argparse.Namespace) -> tuple[bool, str]:
    """Whether the choice holds, and a line."""
    timed = [each for each in chosen(options) if each["milliseconds"] is not None]
    candidates = [msgspec.convert(each, TimedEngine) for each in timed]
    openers = {called(each): partial(opened, options.bundle, options.body, each, options.rows) for each in candidates}
    found = in_turns(openers, options.rounds, options.turn_seconds)
    first = found[called(candidates[0])]
    slower = {name: first.against(times) for name, times in found.items()}  # times as fast as the first
    ratios = {name: 1 / wall for name, (wall, _) in slower.items()}
    behind = max(ratios.values())
    cells = (
        f"{name} {1e3 * median(found[name].wall):.2f} ms ({1e3 * median(found[name].processor):.2f} processor,"
        f" {each['milliseconds']:.2f} as it chose)"
        for name, each in zip(found, timed, strict=True)
    )
    return behind <= BAR, f"{called(candidates[0])}: {100 * (behind - 1):.1f} % behind the fastest; {'; '.join(cells)}"


def main(given: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--body", default="int8-cpu-x86")
    parser.add_argument("--rows", type=int, default=2, help="of x in a call; a guided sample is two")
    parser.add_argument("--trials", type=positive, default=20)
    add_turns(parser, threads=0, rounds=9, seconds=0.3)
    options = parser.parse_args(given)
    held = 0
    with refusing(parser):
        graph_of(open_bundle(options.bundle), options.body)  # refused before a process is
        for number in range(1, options.trials + 1):
            holds, line = trial(options)
            held += holds
            print(f"{number:2d} {'held' if holds else 'MISSED'} {line}", flush=True)
    print(f"{held} of {options.trials} within {100 * (BAR - 1):.0f} %")
    return 0 if held == options.trials else 1


if __name__ == "__main__":
    from benchmarks.races import choice  # by this name the processes of contenders import its functions

    sys.exit(choice.main())
