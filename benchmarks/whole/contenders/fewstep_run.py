"""`fewstep run`, one part of the pipeline after the other: `fewstep_run.py BUNDLE BODY [MEMORY]`.

Each picture loads all parts again, as one call of the command does, within a budget of memory if one is given.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.whole.contenders.fewstep_bundle import PLAN, stored_bytes
from benchmarks.whole.contenders.laps import PROMPT, print_laps
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.plans.names.plan_reference import parse_plan_text


def load() -> Callable[[], object]:
    bundle, body, *memory = sys.argv[1:]

    def draw() -> None:
        with TemporaryDirectory() as folder:
            run(
                RunOptions(
                    bundle=Path(bundle),
                    plan=parse_plan_text(PLAN),
                    precision=body.removesuffix("-cpu-x86"),
                    prompt=(PROMPT,),
                    guidance=1.0,
                    memory=memory[0] if memory else None,
                    output=Path(folder, "picture.png"),
                )
            )

    return draw


if __name__ == "__main__":
    print_laps(load, stored_bytes(*sys.argv[1:3]))
