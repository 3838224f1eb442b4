"""A body that is opened when it is first run, and can be closed: of a large network two sessions are too many."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewstep.machine.memory import give_back
from fewstep.runtime.backends import AHEAD, Arrays, LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import Bundle


@dataclass
class OnDemand:
    """A body of a bundle. It may be run from one thread at a time."""

    bundle: Bundle
    name: str
    backend: OnnxRuntime
    _opened: LoadedGraph | None = field(default=None, init=False)

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        if self._opened is None:
            give_back()  # of the network before
            self._opened = self.backend.load(self.bundle, self.name)
        return self._opened(feeds)

    def close(self) -> None:
        """Give its memory back. The next run opens it again."""
        self._opened = None


@dataclass(frozen=True)
class OpeningOnDemand(OnnxRuntime):
    """onnxruntime whose bodies are `OnDemand`; what runs ahead of the first step is small, and opened at once."""

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        own = OnnxRuntime(threads=self.threads)
        return own.load(bundle, name) if name in AHEAD else OnDemand(bundle, name, own)


def close(network: LoadedGraph) -> None:
    """Close a network if it is one that opens on demand."""
    if isinstance(network, OnDemand):
        network.close()
