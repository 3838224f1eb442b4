"""Bundles that come with fewstep, ready to run: nothing to make, and no torch.

import fewstep.runtime
from fewstep.models import ready

with fewstep.runtime.load(ready.fashion_mnist(), "int8") as sampler:
    x = sampler.sample("dpmpp_2m:8", seeds=[0, 1], condition={"class": ["dress", "bag"]}, guidance=2.0)
"""

from pathlib import Path


def fashion_mnist() -> Path:
    """The Fashion-MNIST denoiser in int8, for x86 and ARM CPUs, calibrated along dpmpp_2m:8 with guidance 2.

    fitted:4, fitted:5, fitted:6, fitted:8 and fitted:10 are plans of few evaluations for these bodies, at guidance 2.
    `.ci/ready` makes it from the shipped weights.
    """
    # an editable installation may link every file to the source tree, and a bundle's files lie in one folder
    return (Path(__file__).parent / "fashion_mnist" / "ready" / "manifest.json").resolve().parent
