"""How much a policy's sequences depend on the noise that they begin from: why one step loses.

    python -m benchmarks.policy.lerobot_spread WORK/policy-* --distilled WORK/policy-*

Where a robot has several ways to go on, ten steps choose one by the noise. A step that predicts the same sequence from
every noise has predicted the mean of these ways, which need not be one of them. `--distilled` is the bundle of
lerobot_distill.py.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import put_part, table
from benchmarks.options import add_page, parser_of, positive
from benchmarks.policy.closed_loop import observations_of
from benchmarks.policy.lerobot_success import FEW, PAGE, SCHEDULER
from benchmarks.policy.rollouts import LIMITS
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.kinds.policies import policy_of

Actions = NDArray[np.float32]
ONE, TEN = "dpmpp_2m:1", f"scheduler:{SCHEDULER}"
SEEDS = 16
HEAD = ("int8", "motions: spread", "mean, from that of ten steps", "size", "fingers: spread", "mean", "size")


def rms(values: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def sample(bundle: Path, plan: str, windows: Mapping[str, Actions]) -> Actions:
    """Return the executed actions [N, SEEDS, actions, 4] of each of N windows, in model range."""
    with load(bundle, precision="int8", backend=OnnxRuntime(threads=1, spinning=False)) as sampler:
        compiled = sampler.compile(plan, shaping=None if plan == TEN else LIMITS)
        policy, seeds, made = policy_of(sampler.bundle.manifest), list(range(SEEDS)), list[Actions]()
        for place in range(len(next(iter(windows.values())))):
            repeated = {name: np.repeat(values[place : place + 1], SEEDS, 0) for name, values in windows.items()}
            made.append(sampler.sample(compiled, seeds, repeated))
        return np.stack(made)[:, :, policy.first : policy.first + policy.actions]


def figures(actions: Actions, reference: Actions) -> tuple[float, float, float]:
    """Return three root mean squares of actions [N, SEEDS, ...]: the difference from the mean over the seeds, that of
    this mean from the reference's, and the actions themselves."""
    mean = actions.mean(1, keepdims=True)
    return rms(actions - mean), rms(mean - reference.mean(1, keepdims=True)), rms(actions)


def row(name: str, actions: Actions, reference: Actions) -> tuple[str, ...]:
    """Return the cells of a plan: the figures of the hand's motions, then those of the fingers."""
    parts = figures(actions[..., :-1], reference[..., :-1]) + figures(actions[..., -1:], reference[..., -1:])
    return (name, *(f"{number:.2f}" for number in parts))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--distilled", type=Path, required=True)
    parser.add_argument("--observations", type=positive, default=48, help="of those that calibrated the bundle")
    add_page(parser, PAGE)
    given = parser.parse_args()
    with np.load(observations_of(given.bundle)) as arrays:
        chosen = np.random.default_rng(0).permutation(len(arrays[arrays.files[0]]))[: given.observations]
        windows = {name: arrays[name][chosen] for name in arrays.files}
    reference = sample(given.bundle, TEN, windows)
    plans = {TEN: reference} | {plan: sample(given.bundle, plan, windows) for plan in (f"dpmpp_2m:{n}" for n in FEW)}
    plans[f"{ONE}, distilled"] = sample(given.distilled, ONE, windows)
    made = table(HEAD, [row(name, actions, reference) for name, actions in plans.items()])
    print(made)
    if given.page:
        put_part(PAGE, "benchmarks/policy/lerobot_spread.py", made)


if __name__ == "__main__":
    main()
