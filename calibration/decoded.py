"""What a decoder makes of latents, and how near that is to what float32 makes of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import Graph
from fewstep.measure.rollouts.metrics import Floats, psnr
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.kinds.companions import AXES
from fewstep.runtime.kinds.graph_entry import Role

DECODED: dict[Role, str] = {"image": "pictures", "video": "videos", "sound": "sounds"}


def decode(network: LoadedGraph, graph: Graph, latents: Floats, conditions: Arrays) -> list[Floats]:
    """Return the outputs of a decoder for latents [N, *shape], row by row: pictures, videos or sounds [N, ...]. It may
    also take conditions [N, ...] of the samples, such as a first frame."""
    first, *others = graph.inputs
    feeds = {first.name: latents, **{entry.name: conditions[entry.name] for entry in others}}
    outputs = run_row_by_row(network, graph.inputs)(feeds)
    return [outputs[output.name] for output in graph.outputs]


def measure_decoded_psnr(outputs: Sequence[Floats], references: Sequence[Floats]) -> NDArray[np.float64]:
    """Return the PSNR in dB of each sample's picture, video or sound; of a video with its sound, the lower one. Sounds
    are seldom as loud as model range, so theirs is relative to the loudest value of the references."""
    lowest: NDArray[np.float64] = np.min([_psnr(*pair) for pair in zip(outputs, references, strict=True)], axis=0)
    return lowest


def relative_to_peak(output: Floats, reference: Floats) -> Floats:
    """Return an output relative to the loudest value of its reference, if it is a sound."""
    is_sound = reference.ndim == 1 + AXES["sound"]
    return output / np.float32((np.abs(reference).max() if is_sound else 0) or 1)


def _psnr(output: Floats, reference: Floats) -> NDArray[np.float64]:
    return psnr(relative_to_peak(output, reference), relative_to_peak(reference, reference))
