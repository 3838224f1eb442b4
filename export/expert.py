"""A network that replaces the denoiser in the noisy steps of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.export.spec import Source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Expert:
    """A network with its own source that runs the steps with log-SNR below `until`.

    outline: returns its module without weights, or None if the module is known only after loading.
    """

    name: str
    until: float
    load: Callable[[], Source]
    outline: "Callable[[], nn.Module] | None" = None
