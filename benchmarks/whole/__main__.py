"""From a prompt to a picture, contenders in turns: `python -m benchmarks.whole "NAME=PYTHON SCRIPT PATH" ...`.

    python -m benchmarks.whole --rounds 3 --page sd15 \
        "fewstep, int8=python fewstep_bundle.py BUNDLE int8-cpu-x86" \
        "OpenVINO GenAI, int8=ENVIRONMENT/bin/python openvino_genai_folder.py FOLDER"

Each contender is a script of contenders/ with its arguments, run by the Python of its own environment; PATH, the
first of them, is what it loads. A round runs each of them once, in a process of its own, and every other round in
reverse order. `pipeline.py` writes the folder that all of them begin with. Linux only.

The table has medians of the rounds: seconds to load, seconds of the first and of the second picture, seconds of all
processors for the second, these divided by those of the first contender in the same round, the peak of resident memory
(mapped files count), and the bytes of the files that are read. The line above it has the load of the machine and the
seconds of a fixed loop, before and after.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.markdown import put_part, table
from benchmarks.options import parser_of, positive
from fewstep.measure.speed.machine import this_machine

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "lab/measured/whole.md"
SCRIPT = "benchmarks.whole"
HEAD = (
    "contender",
    "load, s",
    "first picture, s",
    "second, s",
    "second, processor s",
    "ratio of these",
    "peak, GB",
    "stored, GB",
)
RATIO = "second processors"  # laps that are compared: other programs delay calls more than they cost processor time
LOOP = 10**7

Laps = Mapping[str, float]


@dataclass(frozen=True)
class Contender:
    """`python` runs `script` of contenders/ with `arguments`, of which the first is the path of the model."""

    name: str
    python: str
    script: str
    arguments: Sequence[str]

    def run(self) -> Laps:
        """Return its laps in seconds, its peak and the bytes that it reads. Raises RuntimeError with the last line of
        its errors."""
        module = f"benchmarks.whole.contenders.{Path(self.script).stem}"
        ended = subprocess.run(
            [self.python, "-m", module, *self.arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"{self.name}: {(ended.stderr.strip().splitlines() or ['failed'])[-1]}")
        laps: dict[str, float] = json.loads(ended.stdout.strip().splitlines()[-1])
        return {"stored": self.stored_bytes(), **laps}

    def stored_bytes(self) -> int:
        """Return the bytes of its path, a file or all files of a folder."""
        path = Path(self.arguments[0])
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)


def parse_contender(text: str) -> Contender:
    """Return the contender of NAME=PYTHON SCRIPT PATH ARGUMENTS..."""
    name, _, command = text.partition("=")
    python, script, *arguments = shlex.split(command)
    return Contender(name, python, script, arguments)


def measure_in_turns(contenders: Sequence[Contender], rounds: int) -> Mapping[str, Sequence[Laps]]:
    """Return the laps of each round, by contender. One that fails is left out, with a line on why."""
    laps: dict[str, list[Laps]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            try:
                laps[contender.name].append(contender.run())
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                continue
            print(contender.name, json.dumps(laps[contender.name][-1]), file=sys.stderr, flush=True)
    return {name: rounds_of for name, rounds_of in laps.items() if len(rounds_of) == rounds}


def make_table(laps: Mapping[str, Sequence[Laps]]) -> str:
    """Return the table of the medians of laps, by contender. Ratios are to the first contender."""
    rows, base = [], next(iter(laps.values()))
    for name, rounds in laps.items():
        middle = {key: median(lap[key] for lap in rounds) for key in rounds[0]}
        ratio = median(lap[RATIO] / first[RATIO] for lap, first in zip(rounds, base, strict=True))
        seconds = [f"{middle[key]:.1f}" for key in ("load", "first", "second", RATIO)]
        rows.append([name, *seconds, f"{ratio:.2f}", f"{middle['peak'] / 1e9:.2f}", f"{middle['stored'] / 1e9:.2f}"])
    return table(HEAD, rows)


def describe_moment() -> str:
    """Return the load of the machine, and the seconds of a fixed loop."""
    began = time.perf_counter()
    sum(range(LOOP))
    return f"load {os.getloadavg()[0]:.1f}, loop {time.perf_counter() - began:.2f} s"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("contenders", nargs="+", type=parse_contender, metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=positive, default=3, help="number of rounds (default %(default)s)")
    parser.add_argument("--page", metavar="PART", help=f"put the table into this part of lab/measured/{PAGE.name}")
    options = parser.parse_args()
    machine, before = this_machine(), describe_moment()
    made = make_table(measure_in_turns(options.contenders, options.rounds))
    where = f"{machine.processor}, {machine.cores} cores, {', '.join(machine.int8_instructions)}"
    rounds = f"{options.rounds} round{'s' * (options.rounds != 1)}"
    part = f"{where}; {rounds}; before: {before}; after: {describe_moment()}.\n\n{made}"
    print(part)
    if options.page:
        put_part(PAGE, f"{SCRIPT} --page {options.page}", part)


if __name__ == "__main__":
    main()
