"""Write docs/measured/policy.md from the files that run.py and latency.py left: no figure there is typed by hand.

python benchmarks/policy/policy_page.py WORK --training training
"""

import argparse
import csv
import hashlib
import textwrap
from pathlib import Path

import msgspec
from latency import LATENCY
from run import DEVIATION, ROWS_FILE, Rows
from table import HEAD, markdown
from train import SECOND, WEIGHTS

PAGE = Path(__file__).parents[2] / "docs/measured/policy.md"
WIDTH = 100  # of a line of text
NAME, TICKS = 0, HEAD.index("ticks")  # columns: who, and the first that is no success

INTRODUCTION = """
The policy of [benchmarks/policy](../../benchmarks/policy/README.md) in its simulator: five tasks of Meta-World, 80
ticks a second, episodes in lockstep under a virtual clock. All contenders begin with the same episodes and the same
seeds of noise, and some have more. No seed of the demonstrations, the hand-overs or the calibration is among them.
"""
PAIRS = """
Experts made the demonstrations; rescuers are those that hand-overs were made to. The reference is the first row of a
policy. A difference to it is in points, on the same episodes. Behind it stand the number of pairs, the share of pairs
that differ, the least difference (one-sided, 95 %), and the p-value of McNemar's exact test. No p-value is corrected
for the number of rows. Sequences that are sampled each 4 ticks, and fades, were first tried on seeds from 900 000 with
the first stage's weights; the rows of this table then chose among them.
"""
MOTION = """
Ticks are the median until success. Routes are the shares of over, left and right among the successes past the wall.
The seam is the change of the actions where two sequences meet over the change elsewhere, so 1 is none
([words](../design.md#words)). The jerk is the second difference of the actions there, less the second difference
elsewhere.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of run.py and latency.py")
    parser.add_argument("--training", type=Path, required=True, help="folder of the second stage")
    given = parser.parse_args()
    PAGE.write_text(page(given.work, given.training))


def page(work: Path, training: Path) -> str:
    rows = msgspec.json.decode((work / ROWS_FILE).read_bytes(), type=Rows)
    latency = work / LATENCY
    parts = [
        "# A policy in the loop",
        _wrapped(INTRODUCTION),
        _wrapped(_training(training)),
        "## Success",
        _wrapped(PAIRS),
        markdown([row[:TICKS] for row in rows.lines], HEAD[:TICKS]),
        _wrapped(_deviation(work, rows)),
        "## Motion",
        _wrapped(MOTION),
        markdown([(row[NAME], *row[TICKS:]) for row in rows.lines], (HEAD[NAME], *HEAD[TICKS:])),
    ]
    if latency.exists():
        parts += ["## Latency", latency.read_text().strip()]
    return "\n\n".join(parts) + "\n"


def _training(folder: Path) -> str:
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    with (folder / "loss.csv").open() as file:
        *_, last = csv.DictReader(file)
    return (
        f"The second stage of the training took {last['step']} of {SECOND.steps} steps and ended at a loss of "
        f"{float(last['loss']):.4f}. The hash of its weights begins with `{digest[:16]}`."
    )


def _deviation(work: Path, rows: Rows) -> str:
    rms, p99 = (work / f"{rows.bundle}{DEVIATION}").read_text().split()
    return (
        f"Asked alike, int8 and float32 give actions that differ by {rms} in the root mean square. In one of 100 "
        f"sequences an action differs by more than {p99}. Actions have units of the simulator, from -1 to 1."
    )


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(" ".join(text.split()), WIDTH, break_on_hyphens=False))


if __name__ == "__main__":
    main()
