"""A policy in a control loop: at a fixed rate, an observation in, actions out, and how long that took.

    python examples/control_loop.py policy

The bundle is that of custom_module.py. A plan is compiled once; the loop samples it again and again.
"""

import sys
import time

import numpy as np

from fewstep.runtime import load
from fewstep.runtime.shape import Clip

RATE = 20.0  # actions a second
EXECUTED = 8  # of each sequence, before the next is made from what has been observed since


def main(bundle: str, sequences: str = "5") -> None:
    joints, velocity = np.zeros(3, np.float32), np.zeros(3, np.float32)
    readings = [np.concatenate([joints, velocity])] * 2
    with load(bundle) as sampler:
        plan, latencies = sampler.compile("ddim:4", shape=Clip(-1.0, 1.0)), []  # actions have limits
        due = time.perf_counter()
        for seed in range(int(sequences)):
            began = time.perf_counter()
            (actions,) = sampler.sample(plan, seeds=[seed], condition={"observation": [readings[-2:]]})
            latencies.append(1e3 * (time.perf_counter() - began))
            for action in actions[:EXECUTED]:
                joints, velocity = joints + action / RATE, action  # a real robot moves here
                readings.append(np.concatenate([joints, velocity]))
                due = max(due + 1 / RATE, time.perf_counter())  # late once is not late for ever
                time.sleep(due - time.perf_counter() if due > time.perf_counter() else 0)
    print(f"{len(latencies)} sequences, {np.median(latencies):.1f} ms each, {max(latencies):.1f} ms at most")


if __name__ == "__main__":
    main(*sys.argv[1:])
