"""The best that coefficients can make of the predictions of a rollout: further, only other predictions lead."""

from collections.abc import Sequence

import numpy as np

from fewstep.fitting.blocks import Block, flat, run
from fewstep.plans.plan import Plan
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.sampler import Sampler


def span_psnr(sampler: Sampler, plan: Plan, blocks: Sequence[Block]) -> float:
    """Mean PSNR in dB of the points nearest to the targets.

    The points are all combinations of the first x, of the given tensors and of all predictions. Each sample has its
    own combination, so that no plan reaches it: a plan has one for all samples. It is a limit for these predictions
    alone, since told times, guidance weights and earlier rows make others.
    """
    found = []
    for block in blocks:
        states = run(plan, block, block.network(sampler, plan))
        given = block.given(plan).values()
        parts = [flat(each) for each in (states[0].before[0], *given, *(state.x0 for state in states))]
        targets = flat(block.taught)
        for seed, target in enumerate(targets):
            basis = np.stack([part[seed] for part in parts], axis=1)
            near = basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
            found.append(psnr(near[None], target[None]))
    return float(np.concatenate(found).mean())
