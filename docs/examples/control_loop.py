"""A policy moves a robot at 20 Hz. A thread samples the next actions while the robot executes the current ones.

    python docs/examples/control_loop.py policy

The bundle is that of custom_module.py or of lerobot_policy.py. `PolicyRunner` returns an action at each tick and never
waits. The robot of this example is simulated: its joints move to the positions of the action.
"""

import sys

import numpy as np

from fewstep.plans.shaping import Clip
from fewstep.robots.control import PolicyRunner, Rhythm
from fewstep.runtime import Sampler, UserError, load

RATE = 20.0  # actions per second
PLANS = ("ddim:4", "ddim:2", "ddim:1")  # best first; the first one that is fast enough is used


class Robot:
    """A simulated robot. Its first observation follows the actions; all others are zero."""

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
        runner.warm_up(robot.observe())  # the first calls are slower than later ones
        runner.reset(seed=0)
        found = runner.run(robot.observe, robot.move, seconds=int(ticks) / RATE)  # moves once there is an action
    usual, worst = 1e3 * found.sampling.p50, 1e3 * found.sampling.most
    print(f"{ticks} actions from {found.sampling.count} sequences, {usual:.1f} ms each, {worst:.1f} ms at most")
    print(f"{found.waiting} ticks without an action, {found.late + found.held} with an action for another tick")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/examples/control_loop.py BUNDLE [TICKS]")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"control_loop: {error}")
