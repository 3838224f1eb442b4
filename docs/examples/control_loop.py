"""A policy moves a robot at 20 Hz: the next actions are made in a thread while the present ones are executed.

    python docs/examples/control_loop.py policy

The bundle is that of custom_module.py or of lerobot_policy.py. `PolicyRunner` gives an action at each tick and never
waits. The robot here is a stand-in whose joints go where they are told.
"""

import sys

import numpy as np

from fewstep.plans.shaping import Clip
from fewstep.robots.control import PolicyRunner, Rhythm
from fewstep.runtime import Sampler, UserError, load

RATE = 20.0  # actions a second
PLANS = ("ddim:4", "ddim:2", "ddim:1")  # best first: the first one that is fast enough is used


class Robot:
    """Its first reading follows its actions; everything else that the policy wants to see is dark and still."""

    def __init__(self, sampler: Sampler) -> None:
        self.seen = {each.name: np.zeros(each.shape[1:], each.dtype) for each in sampler.bundle.manifest.conditions}
        self.first = next(iter(self.seen.values()))

    def observe(self) -> dict[str, np.ndarray]:
        return self.seen

    def move(self, action: np.ndarray) -> None:
        joints = min(len(action), len(self.first))
        self.first[:joints] = action[:joints]


def main(bundle: str, ticks: str = "60") -> None:
    with load(bundle) as sampler, PolicyRunner(sampler, Rhythm(RATE, PLANS), shaping=Clip(-1.0, 1.0)) as runner:
        robot = Robot(sampler)
        runner.warm_up(robot.observe())  # the first calls are slower than those that follow
        runner.reset(seed=0)
        found = runner.run(robot.observe, robot.move, seconds=int(ticks) / RATE)  # it moves once there is an action
    usual, worst = 1e3 * found.sampling.p50, 1e3 * found.sampling.most
    print(f"{ticks} actions from {found.sampling.count} sequences, {usual:.1f} ms each, {worst:.1f} ms at most")
    print(f"{found.waiting} ticks without an action, {found.late + found.held} with one that was not for them")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/examples/control_loop.py BUNDLE [TICKS]")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"control_loop: {error}")
