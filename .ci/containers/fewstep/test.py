#!/usr/bin/env python3
"""Test of the image: the shipped int8 bundle samples on the CPU, and doctor finds no problem. It needs no GPU."""

import sys

import numpy as np

import fewstep.runtime
from fewstep.models.ready import fashion_mnist
from fewstep.report.diagnosis import DoctorOptions, diagnose, lacks_code

TROUSER, SNEAKER = 1, 7
INK = {TROUSER: (0.15, 0.4), SNEAKER: (0.05, 0.35)}  # share of pixels above 0: 0.20 to 0.31, 0.10 to 0.27 in 32 samples


def check_samples() -> None:
    with fewstep.runtime.load(fashion_mnist(), "int8") as sampler:
        condition = {"class": [TROUSER, SNEAKER]}
        x = sampler.sample("dpmpp_2m:8", seeds=[0, 1], condition=condition, guidance=2.0)
        again = sampler.sample("dpmpp_2m:8", seeds=[0, 1], condition=condition, guidance=2.0)
    assert x.shape == (2, 1, 28, 28) and np.isfinite(x).all(), x.shape
    assert np.array_equal(x, again), "the same seeds gave other samples"
    for sample, (name, (low, high)) in zip(x, INK.items(), strict=True):
        share = float((sample > 0).mean())
        assert low < share < high, f"the sample of class {name} has {share:.2f} of its pixels above 0"
    print("samples: ok")


def check_machine() -> None:
    seen = diagnose(DoctorOptions())
    for gpu in seen.gpus:
        print(f"gpu: {gpu.name} ({gpu.sm}), driver {gpu.driver}")
    print(f"engines: {', '.join(seen.backends)}")
    problems = [f"{finding.what}; {finding.fix}" for finding in seen.findings if finding.level == "problem"]
    problems += [
        f"{code.engine} has no code for {gpu.sm}"
        for code in seen.cuda_code
        for gpu in seen.gpus
        if lacks_code(code, gpu)
    ]
    if problems:
        sys.exit("\n".join(problems))


check_samples()
check_machine()
print("fewstep: ok")
