"""A network that replaces the denoiser in the noisy steps of a run."""

from collections.abc import Callable
from dataclasses import dataclass

from fewstep.export.spec import Source


@dataclass(frozen=True)
class Expert:
    """A network with its own source that runs the steps with log-SNR below `until`."""

    name: str
    until: float
    load: Callable[[], Source]
