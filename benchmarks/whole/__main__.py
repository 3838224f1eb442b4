"""From a prompt to a picture, contenders in turns: `python -m benchmarks.whole "NAME=PYTHON SCRIPT PATH" ...`.

    python -m benchmarks.whole --rounds 3 --page \
        "fewstep, int8=python fewstep_bundle.py BUNDLE int8" \
        "OpenVINO GenAI, int8=ENVIRONMENT/bin/python openvino_genai_folder.py FOLDER"

Each contender is a script of contenders/ with its arguments, run by the Python of its own environment; PATH, the
first of them, is what it loads. A round runs each of them once, in a process of its own, and every other round in
reverse order. The table has medians: seconds to load, seconds of the first and of the second picture, the peak of
resident memory (mapped files count), and the bytes of PATH. `pipeline.py` writes the folder that all of them begin
with. Linux only.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.markdown import put_part, table
from benchmarks.options import parser_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "lab/measured/whole.md"
SCRIPT = "benchmarks.whole"
LAPS = ("load", "first", "second")


@dataclass(frozen=True)
class Contender:
    """`python` runs `script` of contenders/ with `arguments`, of which the first is the path of the model."""

    name: str
    python: str
    script: str
    arguments: Sequence[str]

    def run(self) -> Mapping[str, float]:
        """Return its laps in seconds and its peak in bytes. Raises RuntimeError with the last line of its errors."""
        module = f"benchmarks.whole.contenders.{Path(self.script).stem}"
        ended = subprocess.run(
            [self.python, "-m", module, *self.arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split()])},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"{self.name}: {(ended.stderr.strip().splitlines() or ['failed'])[-1]}")
        laps: Mapping[str, float] = json.loads(ended.stdout.strip().splitlines()[-1])
        return laps

    def stored_bytes(self) -> int:
        path = Path(self.arguments[0])
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)


def parse_contender(text: str) -> Contender:
    """Return the contender of NAME=PYTHON SCRIPT PATH ARGUMENTS..."""
    name, _, command = text.partition("=")
    python, script, *arguments = shlex.split(command)
    return Contender(name, python, script, arguments)


def measure_in_turns(contenders: Sequence[Contender], rounds: int) -> Mapping[str, Sequence[Mapping[str, float]]]:
    """Return the laps of each round, by contender."""
    laps: dict[str, list[Mapping[str, float]]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            laps[contender.name].append(contender.run())
            print(contender.name, laps[contender.name][-1], file=sys.stderr, flush=True)
    return laps


def make_table(contenders: Sequence[Contender], laps: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    rows = []
    for contender in contenders:
        middle = {key: median(lap[key] for lap in laps[contender.name]) for key in (*LAPS, "peak")}
        seconds = [f"{middle[key]:.1f}" for key in LAPS]
        rows.append([contender.name, *seconds, f"{middle['peak'] / 1e9:.2f}", f"{contender.stored_bytes() / 1e9:.2f}"])
    return table(("contender", "load, s", "first picture, s", "second, s", "peak, GB", "stored, GB"), rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("contenders", nargs="+", type=parse_contender, metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="put the table into lab/measured/whole.md")
    options = parser.parse_args()
    made = make_table(options.contenders, measure_in_turns(options.contenders, options.rounds))
    print(made)
    if options.page:
        put_part(PAGE, SCRIPT, made)


if __name__ == "__main__":
    main()
