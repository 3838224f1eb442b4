"""Run all tries: `python -m lab.tries [SEED]`. Prints those that are not right, and a table of outcomes."""

import logging
from collections import Counter
from importlib import import_module

import numpy as np

from benchmarks.options import parser_of
from lab.tries.attempt import count

FAMILIES = {
    "loops": 450,
    "schedulers": 350,
    "guidance": 250,
    "runs": 255,
    "modules": 420,
    "sizes": 160,
    "int8": 120,
    "baked": 80,
    "lora": 120,
    "conditions": 104,
    "numbers": 322,
    "hostile": 240,
}
OUTCOMES = ("right", "refused", "needlessly refused", "wrong", "crashed")


def main(seed: int) -> None:
    logging.disable(logging.WARNING)
    results = dict[str, Counter[str]]()
    for number, (family, tries) in enumerate(FAMILIES.items()):
        made = import_module(f"lab.tries.{family}").attempts(np.random.default_rng([seed, number]), tries)
        results[family] = count(family, made)
    results["all"] = sum(results.values(), Counter[str]())
    print(f"| family | tries | {' | '.join(OUTCOMES)} |\n|---|{'---|' * (1 + len(OUTCOMES))}")
    for family, outcomes in results.items():
        print(f"| {family} | {outcomes.total()} | {' | '.join(str(outcomes[outcome]) for outcome in OUTCOMES)} |")


if __name__ == "__main__":
    parser = parser_of(__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=20261130, help="of the random tries (default %(default)s)")
    main(parser.parse_args().seed)
