"""Write conditions for `fewstep calibrate --conditions`: `python zoo/rows.py NAME --seed 0 -o FILE.npz`.

Another seed gives other conditions, for `fewstep measure`. Members whose conditions fewstep draws itself need no such
file.
"""

import argparse
from pathlib import Path

import numpy as np
from members import BY_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BY_NAME)
    parser.add_argument("--count", type=int, default=256, help="values of each condition")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", "-o", type=Path, required=True)
    given = parser.parse_args()
    rows = BY_NAME[given.name].rows(given.count, given.seed)
    if rows is None:
        parser.error(f"fewstep draws the conditions of {given.name} itself: leave --conditions out")
    np.savez(given.output, **rows)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
