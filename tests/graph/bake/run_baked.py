"""Run a baked file in onnxruntime, as a program does that has nothing but the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fewstep.graph.bake.metadata import Baked, BakedPort, decoded
from fewstep.plans import noise


def open_baked(file: Path) -> tuple[ort.InferenceSession, Baked]:
    """The file in a session with all optimizations on, and what it says of itself."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return session, decoded(session.get_modelmeta().custom_metadata_map)


def sampled(file: Path, seeds: Sequence[int], **given: Any) -> np.ndarray:
    """Samples of seeds; `given` are values of conditions and given tensors."""
    session, baked = open_baked(file)
    feeds = {}
    for port in baked.inputs:
        if port.meaning == "noise":
            feeds[port.name] = np.stack([noise.normal(seed, 0, _of_sample(port)) for seed in seeds])
        elif port.meaning == "draws":
            draws = [[noise.normal(seed, number, _of_sample(port)) for seed in seeds] for number in baked.draws]
            feeds[port.name] = np.array(draws)
        else:
            feeds[port.name] = np.asarray(given[port.name], port.dtype)
    (sample,) = session.run([baked.output.name], feeds)
    return np.asarray(sample)


def _of_sample(port: BakedPort) -> tuple[int, ...]:
    """The shape of one sample's noise: behind the batch, which stands first or behind the number of draws."""
    return tuple(int(size) for size in port.shape[1 + (port.meaning == "draws") :])
