"""A filter that randomly skips frames of a stream which resemble the last processed one."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.noise import uniform

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class SimilarityFilter:
    """Stochastic similarity filter (StreamDiffusion: Kodaira et al. 2023, arXiv 2312.12491, section 3.4).

    A frame x is skipped with probability max(0, 1 - (1 - cos) / (1 - threshold)), where cos is its cosine similarity to
    the last processed frame. The random number is a function of the stream's seed and the frame's index.

    threshold: cosine similarity in [0, 1), up to which no frame is skipped.
    most: largest number of frames skipped in a row. The next one is processed in any case.
    """

    threshold: float = 0.98
    most: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or self.most < 1:
            raise UserError(f"{self} is not a valid filter", "give a threshold in [0, 1), and `most` of at least 1")

    def skips(self, frame: Float32, processed: Float32, seed: int, index: int) -> bool:
        """Return whether a frame is skipped. `processed` is the last processed frame, of the same shape."""
        dot, length = float(np.vdot(frame, processed)), _length(frame) * _length(processed)
        cosine = dot / length if length else float(np.array_equal(frame, processed))
        chance = 1 - (1 - cosine) / (1 - self.threshold)
        return chance > 0 and (chance >= 1 or chance >= uniform(seed, index))


def _length(x: Float32) -> float:
    return math.sqrt(np.vdot(x, x))
