"""The similarity filter of a stream: frames that resemble the last processed one are skipped, by chance."""

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

    A frame x is skipped with the probability max(0, 1 - (1 - cos) / (1 - threshold)), where cos is its cosine with the
    last frame that was processed. Chance is a function of the stream's seed and the frame's index.

    threshold: cosine in [0, 1) at and below which no frame is skipped.
    most: frames skipped in a row; the next one is processed, whatever it shows.
    """

    threshold: float = 0.98
    most: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or self.most < 1:
            raise UserError(f"{self} is no filter", "give a threshold in [0, 1), and most from 1 on")

    def skips(self, frame: Float32, processed: Float32, seed: int, index: int) -> bool:
        """True if a frame is skipped; `processed` is the last processed frame, of the same shape."""
        dot, length = float(np.vdot(frame, processed)), _length(frame) * _length(processed)
        cosine = dot / length if length else float(np.array_equal(frame, processed))
        chance = 1 - (1 - cosine) / (1 - self.threshold)
        return chance > 0 and (chance >= 1 or chance >= uniform(seed, index))


def _length(x: Float32) -> float:
    return math.sqrt(np.vdot(x, x))
