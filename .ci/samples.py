"""Samples of the ready bundle on this CPU, or how near those of two CPUs are.

    python .ci/samples.py write FILE.npz
    python .ci/samples.py compare HERE.npz THERE.npz

CPUs compute exponentials and sums of float32 in other orders, so their last bits differ. One evaluation of one input
then agrees to these bits: all its 8-bit numbers are the same. Over a whole sample one of them sooner or later falls
to the other side of a half, and what follows moves by as much as int8 differs from float32. Hence two tolerances.
"""

import sys

import numpy as np

import fewstep.runtime
from fewstep.models import ready
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.execute import combine

PLAN = "dpmpp_2m:8"
SEEDS = (0, 1, 2, 3)
LABELS = (0, 3, 5, 8)
BODIES = ("int8-cpu-x86", "int8-cpu-arm")
FIRST_LEAST = 90.0  # dB of PSNR (peak 2) of the predicted sample after one evaluation, for each seed
LAST_LEAST = 40.0  # of the finished samples, their mean


def write(file: str) -> None:
    found = {}
    for body in BODIES:
        with fewstep.runtime.load(ready.fashion_mnist(), body=body, backend=OnnxRuntime(threads=1)) as sampler:
            plan = sampler.compile(PLAN, guidance=2.0)
            for state in sampler.steps(plan, seeds=SEEDS, condition={"class": LABELS}):
                found.setdefault(f"{body}, first step", np.asarray(state.x0))
            found[f"{body}, sample"] = combine(plan.output, state.after, np.float32)
    np.savez(file, **found)


def psnr(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """dB for each sample; 200 where they are bitwise the same."""
    error = np.square(one.astype(np.float64) - other).reshape(len(one), -1).mean(axis=1)
    return np.asarray(10 * np.log10(4 / np.maximum(error, 4e-20)))


def compare(here: str, there: str) -> int:
    one, other = np.load(here), np.load(there)
    missed = 0
    for name in one.files:
        found = psnr(one[name], other[name])
        is_first = name.endswith("first step")
        holds = bool(found.min() >= FIRST_LEAST if is_first else found.mean() >= LAST_LEAST)
        print(f"{name}: PSNR {found.mean():.1f} dB, least {found.min():.1f}{'' if holds else '  TOO FAR APART'}")
        missed += not holds
    for file, arrays in ((here, one), (there, other)):
        if not np.array_equal(*(arrays[f"{body}, sample"] for body in BODIES)):
            print(f"{file}: the two bodies give different samples")
            missed += 1
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(write(sys.argv[2]) if sys.argv[1] == "write" else compare(*sys.argv[2:]))
