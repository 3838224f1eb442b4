"""A policy moves a robot at 20 Hz: the next actions are made in a thread while the present ones are executed.

    python examples/control_loop.py policy

The bundle is that of custom_module.py or of lerobot_policy.py. When a sequence of actions comes to its end the next one
is asked for; the actions that will be executed until it is there are given along, and it continues them. The robot here
is a stand-in whose joints go where they are told.
"""

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from fewstep.control import History, LatencyWindow, Window, sample_actions, ticks_of_delay
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip
from fewstep.runtime import Sampler, UserError, load
from fewstep.runtime.policies import policy_of

RATE = 20.0  # actions a second
STEPS = 4


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


def timed(
    sampler: Sampler, plan: Plan, window: Window, seed: int, former: np.ndarray, decided: int
) -> tuple[np.ndarray, float]:
    """A sequence of actions, and the seconds it took."""
    began = time.perf_counter()
    return sample_actions(sampler, plan, window, seed, former, decided), time.perf_counter() - began


def main(bundle: str, ticks: str = "60") -> None:
    with load(bundle) as sampler, ThreadPoolExecutor(1) as worker:
        plan = sampler.compile(f"ddim:{STEPS}", shaping=Clip(-1.0, 1.0))  # actions have limits
        robot, history = Robot(sampler), History(sampler)
        history.add(robot.observe())
        sample_actions(sampler, plan, history.window())  # the first call is slower than those that follow: not counted
        actions, seconds = timed(sampler, plan, history.window(), 0, np.empty(0), 0)  # it stands still until then
        latencies = LatencyWindow()
        latencies.add(seconds)
        executed, began, asked, all_seconds = policy_of(sampler.bundle.manifest).actions, 0, 0, [seconds]
        pending: Future[tuple[np.ndarray, float]] | None = None
        due = time.perf_counter()
        for tick in range(int(ticks)):
            history.add(robot.observe())
            delay = ticks_of_delay(latencies.seconds, RATE)
            if pending is None and tick - began >= executed - delay:
                former = actions[tick - began :]
                decided = min(delay, len(former))
                pending, asked = worker.submit(timed, sampler, plan, history.window(), tick, former, decided), tick
            if pending is not None and pending.done():
                (actions, seconds), began, pending = pending.result(), asked, None
                latencies.add(seconds)
                all_seconds.append(seconds)
            robot.move(actions[min(tick - began, len(actions) - 1)])  # the last is held where the next are late
            due = max(due + 1 / RATE, time.perf_counter())  # late once is not late for ever
            time.sleep(max(0.0, due - time.perf_counter()))
    worst, usual = 1e3 * max(all_seconds), 1e3 * float(np.median(all_seconds))
    print(f"{ticks} actions from {len(all_seconds)} sequences, {usual:.1f} ms each, {worst:.1f} ms at most")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/control_loop.py BUNDLE [TICKS]")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"control_loop: {error}")
