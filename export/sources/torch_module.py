"""A denoiser that is a torch module, from any source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewstep.export.expert import Expert
from fewstep.export.spec import CompanionSource, Spec, TracedDenoiser
from fewstep.graph.lora_slots import add_lora_slots
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Description
from fewstep.runtime.kinds.lora_slots import LoraSlots

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TorchSource:
    """A module with its spec: a `Source`. `batch_limit` and `batch_least` are for code that branches on the batch, and
    `loops_over_samples` for code that loops over it (see `trace`). `component` is its name in a pipeline's folder.
    `check_sizes` raises UserError for free sizes of x that its pipeline does not take."""

    module: "torch.nn.Module"
    spec: Spec
    label: str
    sha256: str
    batch_limit: int | None = None
    scheduler: Mapping[str, Any] | None = None
    companions: CompanionSource | None = None
    lora_slots: LoraSlots | None = None
    experts: tuple[Expert, ...] = ()
    batch_least: int | None = None
    loops_over_samples: bool = False
    component: str | None = None
    check_sizes: Callable[[Description], None] | None = None

    def __post_init__(self) -> None:
        from fewstep.export.traceable import (
            check_traceable,
        )  # imports torch, which takes seconds and --help does not need

        check_traceable(self.module)

    def trace(self) -> TracedDenoiser:
        """Put the module in evaluation mode, on the CPU, in float32, and export it."""
        from fewstep.export import trace

        traced = trace.trace(self.module, self.spec, self.batch_limit, self.batch_least, self.loops_over_samples)
        if self.lora_slots is None:
            return traced
        graph = add_lora_slots(traced.graph, self.lora_slots.layers)
        return replace(traced, graph=graph, lora_slots=self.lora_slots)


def module_and_spec(made: object, label: str, fix: str) -> "tuple[torch.nn.Module, Spec]":
    """Return the pair that a user's function returned. Raises UserError for anything else; `label` is the function's
    name."""
    import torch  # takes seconds, and --help does not need it

    if not (isinstance(made, tuple) and len(made) == 2):
        raise UserError(f"{label} returned {type(made).__name__}", fix)
    module, spec = made
    if not (isinstance(module, torch.nn.Module) and isinstance(spec, Spec)):
        raise UserError(f"{label} returned ({type(module).__name__}, {type(spec).__name__})", fix)
    return module, spec
