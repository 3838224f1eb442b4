"""A denoiser that is a torch module, wherever it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewstep.export.spec import CompanionSource, Spec, TracedDenoiser

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TorchSource:
    """A module with its spec: a `Source`. `batch_limit` is for code that branches on the batch (see `trace`)."""

    module: "torch.nn.Module"
    spec: Spec
    label: str
    sha256: str
    batch_limit: int | None = None
    scheduler: Mapping[str, Any] | None = None
    beside: CompanionSource | None = None

    def __post_init__(self) -> None:
        from fewstep.export.traceable import check_traceable  # torch takes seconds to load: not for --help

        check_traceable(self.module)

    def trace(self) -> TracedDenoiser:
        """Put the module in evaluation mode, on the CPU, in float32, and export it."""
        from fewstep.export import trace

        return trace.trace(self.module, self.spec, self.batch_limit)
