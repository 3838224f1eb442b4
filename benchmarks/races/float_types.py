"""How far samples are from float32 with each body and float type of OpenVINO on this CPU.

    python benchmarks/races/float_types.py BUNDLE [--plan dpmpp_2m:8] [--guidance 2] [--seeds 64]

The bundle has the float32 body, and those int8 bodies that it was calibrated for. A row has the mean PSNR in dB over
held-out seeds against the float32 body on onnxruntime, and the 5th percentile. Bodies run on one thread.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler

BATCH = 8
FORMS = (
    ("int8-cpu-x86", OnnxRuntime(threads=1)),
    ("int8-openvino", OpenVino(threads=1)),
    ("int8-openvino", OpenVino(threads=1, float_type="bf16")),
    ("int8-openvino-bf16", OpenVino(threads=1, float_type="bf16")),
    ("float32", OpenVino(threads=1, float_type="bf16")),
)


def samples(sampler: Sampler, options: argparse.Namespace) -> np.ndarray:
    """[seeds, *x_shape] of the seeds from 0 on."""

    def batches() -> Iterator[np.ndarray]:
        for first in range(0, options.seeds, BATCH):
            seeds = range(first, min(first + BATCH, options.seeds))
            values = held_out_conditions(sampler.bundle.manifest.conditions, seeds, None)
            yield sampler.sample(options.plan, seeds, values, options.guidance)

    return np.concatenate([*batches()])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="dpmpp_2m:8")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=64)
    options = parser.parse_args()
    try:
        with load(options.bundle, backend=OnnxRuntime(threads=1)) as sampler:
            expected, bodies = samples(sampler, options), sampler.bundle.manifest.bodies
        for body, backend in FORMS:
            if body in bodies:
                with load(options.bundle, body=body, backend=backend) as sampler:
                    found = psnr(samples(sampler, options), expected)
                kind = backend.float_type if isinstance(backend, OpenVino) else "f32"
                print(f"{body:<20} {kind:<5} {found.mean():6.2f} dB, 5th percentile {np.percentile(found, 5):.2f}")
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
