"""Run a baked file in onnxruntime, like a program that has only the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fewstep.graph.bake.draws import DRAWN, NOISE, draw_input
from fewstep.graph.bake.metadata import Baked, decode_metadata


def open_baked(file: Path) -> tuple[ort.InferenceSession, Baked]:
    """Open the file in a session with all optimizations on; return it with the file's metadata."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return session, decode_metadata(session.get_modelmeta().custom_metadata_map)


def run_file(file: Path, seeds: Sequence[int], **given: Any) -> np.ndarray:
    """Samples of seeds; `given` are values of conditions and given tensors."""
    session, baked = open_baked(file)
    feeds = {}
    for port in baked.inputs:
        sample = port.shape[1 + (port.meaning != NOISE) :]
        feeds[port.name] = (
            draw_input(port.meaning, baked.draws, seeds, [*map(int, sample)])
            if port.meaning in DRAWN
            else np.asarray(given[port.name], port.dtype)
        )
    (made,) = session.run([baked.output.name], feeds)
    return np.asarray(made)
