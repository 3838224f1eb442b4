"""Watch a run and stop it: show progress and a preview after each evaluation, and cancel from another thread by an
event.

    python docs/examples/progress_and_cancel.py BUNDLE

The bundle can be any whose network takes one time. (That of flow_map.py takes two, and is sampled with `ctm`.)
"""

import sys
import threading
from typing import Any

import numpy as np

from fewstep.runtime import Cancelled, Plan, Sampler, UserError, load

PLAN = "ddim:20"


def main(bundle: str) -> None:
    with load(bundle) as sampler:
        condition = {each.name: np.zeros((1, *each.shape), each.dtype) for each in sampler.bundle.manifest.conditions}
        plan = sampler.compile(PLAN)
        for state in sampler.steps(plan, seeds=[0], condition=condition):
            preview = state.x0  # the sample [B, *x_shape] if the run ended here
            print(
                f"\r{state.index + 1}/{len(plan.steps)}, preview from {preview.min():.2f} to {preview.max():.2f}",
                end="",
            )
        print()

        cancel = threading.Event()
        worker = threading.Thread(target=run, args=(sampler, plan, condition, cancel))
        worker.start()
        cancel.set()  # set by a button, a deadline or a disconnected client; the current evaluation is the last
        worker.join()


def run(sampler: Sampler, plan: Plan, condition: dict[str, Any], cancel: threading.Event) -> None:
    try:
        for _ in range(1000):
            sampler.sample(plan, seeds=[0], condition=condition, cancel=cancel)
    except Cancelled as stopped:
        print(f"cancelled: {stopped}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/progress_and_cancel.py BUNDLE")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"progress_and_cancel: {error}")
