"""The whole training from nothing: `python benchmarks/policy/recipe.py WORK`. The README has its time.

Demonstrations, the first stage on them, hand-overs from its policy to the experts, and the second stage on both. The
same command goes on where the last one stopped. WORK/second/policy.safetensors has the weights.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from demonstrations import CARD

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", default="2")
    given = parser.parse_args()
    data, first, handovers, second = (given.work / name for name in ("data", "first", "handovers", "second"))
    weights = first / "policy.safetensors"
    training = ("--data", data, "--threads", given.threads, "--work")
    if not (data / CARD).exists():
        _run("demonstrations.py", data)
    _run("train.py", *training, first)
    if not (handovers / CARD).exists():
        _run("handovers.py", handovers, "--weights", weights)
    _run("train.py", *training, second, "--handovers", handovers, "--weights", weights)


def _run(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, str(HERE / script), *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
