"""Real-time chunking by gradient in the simulator, beside the other ways to continue a sequence.

    PYTHONPATH=. simulator/bin/python benchmarks/policy/real_time_chunking.py WORK [--episodes 20]

The gradient is of Black et al. 2025 (arXiv 2506.07339), with their weights, gain and clip. "By x0" leaves the denoiser
out of it, as LeRobot does. All ways run in float32, along the same plans, on the same episodes and seeds of noise. The
reference of a row is "soft" of its plan. Sequences come 50 ms late. WORK keeps the verdicts: a stopped run goes on.
"""

import argparse
import dataclasses
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from demonstrations import HORIZON
from network import EXECUTED, WEIGHTS
from network import make as plain
from run import hash_of
from simulator import ACTIONS, TASKS, Simulation
from table import HEAD, markdown, row
from torch import nn
from verdicts import Contender, Ledger

from benchmarks.steering.continuation import STEER, continuing
from fewstep.control import SequenceRequest, VirtualClock, padded, sample_sequences, soft_mask
from fewstep.control.actions import Continuity
from fewstep.control.clocks import SequenceJob, VirtualRun
from fewstep.export import Spec
from fewstep.export.export import ExportOptions, export
from fewstep.export.gradient import Of
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from rollouts import LIMITS, episodes_of, one_hot, run

PLANS, DELAY = ("ddim:5", "dpmpp_2m:2"), 4  # the authors' steps, and those of policy.md; ticks of 12.5 ms
WAYS: dict[str, tuple[Of | None, Continuity]] = {  # what the gradient is by, and what is held
    "soft": (None, "soft"),
    "gradient": ("x", "none"),
    "none": (None, "none"),
    "trained": (None, "trained"),
    "gradient by x0": ("x0", "none"),
}
TIMED = 30  # calls of each way, in turns
COLUMNS = [place for place, name in enumerate(HEAD) if name != "routes"]


def make(of: Of) -> tuple[nn.Module, Spec]:
    """The policy with the gradient as its second output."""
    return continuing(*plain(), of)


by_x, by_x0 = partial(make, "x"), partial(make, "x0")  # what export calls


def guided(request: SequenceRequest) -> SequenceRequest:
    """The request with the conditions of the energy. The weights are 0 where there is no former sequence."""
    former, weights = np.zeros((HORIZON, ACTIONS), np.float32), np.zeros(HORIZON, np.float32)
    if request.former is not None:
        former = padded(request.former, HORIZON)
        weights = soft_mask(request.decided, min(HORIZON - EXECUTED, len(request.former)), HORIZON)
    return dataclasses.replace(request, window={**request.window, "former": former, "weights": weights})


class Guiding(VirtualClock):
    """Samples with a network that is steered to the former sequence, whatever network the runner has."""

    def __init__(self, delay: float, sampler: Sampler, plan: str) -> None:
        super().__init__(delay)
        self._sampler, self._plan = sampler, sampler.compile(plan, STEER, shaping=LIMITS)

    def start(self, job: SequenceJob) -> VirtualRun:
        request = guided(job.request)
        return super().start(dataclasses.replace(job, sampler=self._sampler, plan=self._plan, request=request))


def milliseconds(samplers: dict[Of | None, Sampler], plan: str) -> dict[str, float]:
    """The median CPU time of a call of each way."""
    seen = {"observation": Simulation(TASKS[0]).reset(0).astype(np.float32)[None], "task": one_hot(TASKS[0])}
    plain_plan = samplers[None].compile(plan, shaping=LIMITS)
    (former,), _ = sample_sequences(samplers[None], plain_plan, [SequenceRequest(seen, 0)])
    asked = SequenceRequest(seen, 1, former[EXECUTED:], DELAY)
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    plans = {of: each.compile(plan, STEER, shaping=LIMITS) for of, each in samplers.items() if of}
    for _ in range(TIMED):
        for way, (of, continuity) in WAYS.items():
            request = asked if of is None else guided(asked)
            samplers[of].forget()  # a robot sees something else at each call
            begun = time.process_time()
            sample_sequences(samplers[of], plain_plan if of is None else plans[of], [request], continuity)
            spent[way].append(1000 * (time.process_time() - begun))
    return {way: median(each) for way, each in spent.items()}


def loaded(work: Path, of: Of | None) -> Sampler:
    """The bundle of the policy, exported once."""
    bundle = work / f"policy-{of or 'plain'}"
    source = Path(__file__).with_name("network.py") if of is None else Path(__file__)
    if not bundle.exists():
        export(ExportOptions(f"{source}:{'make' if of is None else f'by_{of}'}", bundle))
    return load(bundle, backend=OnnxRuntime(threads=1, spinning=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--episodes", type=int, default=20, help="of each task")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    samplers: dict[Of | None, Sampler] = {of: loaded(options.work, of) for of in (None, "x", "x0")}
    lines, digest = [], hash_of(WEIGHTS)
    for plan in PLANS:
        spent, reference = milliseconds(samplers, plan), None
        for way, (of, continuity) in WAYS.items():
            name = f"{way}, `{plan}`"
            who = Contender(name, digest, plan, continuity=continuity, delay=DELAY, precision="float32")
            ledger = Ledger(options.work / "verdicts", who)
            clock = VirtualClock if of is None else partial(Guiding, sampler=samplers[of], plan=plan)
            run(who, samplers[None], episodes_of(options.episodes), ledger, clock_of=clock)
            cells = row(who, ledger.verdicts, reference)
            reference = reference or ledger.verdicts
            lines.append((*(cells[place] for place in COLUMNS), f"{spent[way]:.1f}"))
            print(markdown([], lines[-1]).splitlines()[0], flush=True)
    print(markdown(lines, (*(HEAD[place] for place in COLUMNS), "CPU ms")))


if __name__ == "__main__":
    main()
