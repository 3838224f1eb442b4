"""A sampler whose network is numpy: v = tanh(x / 2) + row, with the row of the tiny bundle's prologue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fewstep.runtime
from fewstep.runtime import Sampler


@dataclass
class Analytic:
    """A sampler that counts its calls, and the samples of each."""

    scales: NDArray[np.float32] | None = None
    batches: list[int] = field(default_factory=list)

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        self.batches.append(len(feeds["x"]))
        v = np.tanh(feeds["x"] * np.float32(0.5)) + feeds["row"][:, :, None, None]
        return {"v": v * self.scales[feeds["group"][0]] if self.scales is not None else v}


@pytest.fixture
def network() -> Analytic:
    return Analytic()


@pytest.fixture
def sampler(tiny_bundle: Path, network: Analytic) -> Sampler:
    return fewstep.runtime.load(tiny_bundle).with_network_parts(graph=network)


@pytest.fixture
def two_groups(tiny_bundle: Path) -> Sampler:
    """The int8 body's two range groups; a call has one."""
    scales = np.array([0.5, 0.25], np.float32)
    return fewstep.runtime.load(tiny_bundle, "int8").with_network_parts(graph=Analytic(scales))
