"""What a recording contains: the calls of a denoiser and the steps of a scheduler."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class NetworkCall:
    """A call of a denoiser. `leaves` are its arguments by path, such as "['hidden_states']"; `structure` rebuilds the
    nested arguments from them. `output` is the tensor that it returned: a probe, or the real one."""

    component: str
    leaves: Mapping[str, Any]
    structure: pytree.TreeSpec
    output: Tensor


@dataclass(frozen=True)
class SchedulerStep:
    """A call of the scheduler's `step`, with the denoiser's calls since the previous one. `eta` is its argument of that
    name, or None."""

    calls: tuple[NetworkCall, ...]
    model_output: Tensor
    time: float
    sample: Tensor
    result: Tensor
    eta: float | None = None


@dataclass(frozen=True)
class CallRecord:
    """All steps of one call of a pipeline, and what it returned, or None if it failed after its last step (a failed
    decode is ignored). `times` are the arguments of the scheduler's `set_timesteps`. `failure` is the error after the
    last step, in words."""

    steps: tuple[SchedulerStep, ...]
    times: Mapping[str, Any] = field(default_factory=dict)
    returned: Any = None
    failure: str | None = None
