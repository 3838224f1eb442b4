"""The part of x that a pipeline replaces after each step, as inpainting does: by a noisy version of the given image, or
by the image itself."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.execute import Hold, x_row

Array = NDArray[np.floating[Any]]


def find_held_part(name: str, record: CallRecord) -> Tensor | None:
    """Return a mask of x [rows, ...] that is true where the pipeline replaces values that its scheduler returned, or
    None if it replaces none.

    Outputs are random, so a replaced value differs from the scheduler's. By what it is replaced is not tested here.
    Raises UserError if steps replace different parts, or everything.
    """
    masks = []
    for step, following in zip(record.steps, record.steps[1:], strict=False):
        if step.result.shape != following.sample.shape:
            raise recording_error(f"{name} changes the shape of x between steps")
        masks.append(step.result != following.sample)
    if not any(bool(mask.any()) for mask in masks):
        return None
    if not all(torch.equal(mask, masks[0]) for mask in masks):
        raise recording_error(f"{name} changes different parts of x after each step")
    if bool(masks[0].all()):
        raise recording_error(
            f"{name} changes all of x after each step, by a mask, a scale or noise that its scheduler does not add"
        )
    return masks[0]


def is_kept_clean(mask: Tensor, record: CallRecord) -> bool:
    """Return True if all steps get the same values in the part that a mask marks, without noise."""
    return all(torch.equal(step.sample[mask], record.steps[0].sample[mask]) for step in record.steps)


def read_hold(name: str, record: CallRecord, plan: Plan, last: Array, noise: Array) -> Hold | None:
    """Return the hold of a pipeline that replaces a part of x after each step; None for other pipelines. The image in
    this part is computed from the input of the last step. A comparison with the plan then tests it at the other steps.

    last: x as the network receives it in the last step. noise: the noise that x starts from.
    """
    mask = find_held_part(name, record)
    if mask is None:
        return None
    row, alpha, sigma = x_row(plan.steps[-1])
    x, is_clean = last / plan.steps[-1].input[row], is_kept_clean(mask, record)
    value = np.where(mask, x if is_clean else (x - sigma * noise) / alpha, 0)
    return Hold(value.astype(np.float32), mask.numpy().astype(np.float32), clean=is_clean)
