"""Bundles that come with fewstep. They can be run immediately, without an export and without torch.

import fewstep.runtime
from fewstep.models import ready

with fewstep.runtime.load(ready.fashion_mnist(), "int8") as sampler:
    x = sampler.sample("dpmpp_2m:8", seeds=[0, 1], condition={"class": ["dress", "bag"]}, guidance=2.0)
"""

from pathlib import Path


def fashion_mnist() -> Path:
    """Return the bundle of the Fashion-MNIST denoiser in int8, for x86 and ARM CPUs, calibrated along dpmpp_2m:8 with
    guidance 2.

    fitted:4, fitted:5, fitted:6, fitted:8 and fitted:10 are plans with few evaluations for these bodies and guidance 2.
    `.ci/ready` makes the bundle from the shipped weights.
    """
    # an editable installation may link each file to the source tree, but a bundle's files must be in one folder
    return (Path(__file__).parent / "fashion_mnist" / "ready" / "manifest.json").resolve().parent
