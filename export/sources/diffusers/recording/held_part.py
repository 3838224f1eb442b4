"""The part of x that a pipeline replaces by a noisy version of the given image after each step, as inpainting does."""

import torch
from torch import Tensor

from fewstep.export.sources.diffusers.recording.call_record import CallRecord
from fewstep.export.sources.diffusers.recording.stand_ins import recording_error


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
    if not any(bool(each.any()) for each in masks):
        return None
    if not all(torch.equal(each, masks[0]) for each in masks):
        raise recording_error(f"{name} changes different parts of x after each step")
    if bool(masks[0].all()):
        raise recording_error(
            f"{name} changes all of x after each step, by a mask, a scale or noise that its scheduler does not add"
        )
    return masks[0]
