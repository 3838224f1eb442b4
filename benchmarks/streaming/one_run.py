"""int8 of a whole series in one run, beside float32 of the same: what int8 costs where nothing is carried.

python benchmarks/streaming/one_run.py --work FOLDER

The attention, the weights and the plan are those of `measure.py`, and so are the streams, the chunks and the vowels. A
frame hears the same past as in chunks. So what int8 loses here is not of carrying.
"""

import argparse
from pathlib import Path

import numpy as np
import speech
import torch
from measure import CHUNKS, GUIDANCE, PLAN, STREAMS, rows, seeds, vowels
from torch import Tensor, nn

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export import Condition, Spec
from fewstep.export.export import ExportOptions, export
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.loading import load


class Series(nn.Module):
    """The velocity of x [B, BANDS, CHUNKS * FRAMES] at time [B], for a vowel of each chunk [B, CHUNKS]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = speech.make()[0]

    def forward(self, x: Tensor, time: Tensor, vowels: Tensor) -> Tensor:
        velocity: Tensor = self.network.whole(x, time, vowels)
        return velocity


def make() -> tuple[nn.Module, Spec]:
    of_chunks = Condition("vowels", "vowels", (CHUNKS,), null=speech.NULL, low=0, high=speech.VOWELS - 1)
    shape = (speech.BANDS, CHUNKS * speech.FRAMES)
    return Series(), Spec("speech_series", shape, (of_chunks,), "flow", speech.SPEC.schedule)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundle")
    bundle = parser.parse_args().work / "series"
    if not bundle.exists():
        export(ExportOptions(f"{__file__}:make", bundle))
        calibrate(CalibrateOptions(bundle, plan=PLAN, guidance=GUIDANCE, target=("cpu-x86", "openvino")))
    bodies = {
        "float32": load(bundle, body="float32", backend=OnnxRuntime(threads=1)),
        "onnxruntime, int8": load(bundle, body="int8-cpu-x86", backend=OnnxRuntime(threads=1)),
        "OpenVINO, int8": load(bundle, body="int8-openvino", backend=OpenVino(threads=1)),
    }
    condition = {"vowels": np.stack([vowels(number, STREAMS)["vowel"] for number in range(CHUNKS)], axis=1)}
    samples = {
        name: np.split(sampler.sample(PLAN, seeds(0, STREAMS), condition, GUIDANCE), CHUNKS, axis=2)
        for name, sampler in bodies.items()
    }
    exact = samples.pop("float32")
    decibels = {name: [psnr(*pair).mean() for pair in zip(own, exact, strict=True)] for name, own in samples.items()}
    lines = [[name, f"{np.mean(own):.2f}", f"{own[-1]:.2f}"] for name, own in decibels.items()]
    print(rows("One run", ["", "PSNR, mean of chunks", "last chunk"], lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
