"""Denoisers small enough to export in seconds."""

import pytest
import torch

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.graph.prepare import prepare
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE, NULL_CLASS, UNet
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.export.denoisers import Exported

torch.set_num_threads(1)  # the networks are tiny: a second thread only waits

LABEL = Condition("class", "class", null=NULL_CLASS, low=0, high=NULL_CLASS - 1, labels=CLASSES)


@pytest.fixture(scope="session")
def unet() -> Exported:
    """The shipped UNet's architecture with few channels and random weights."""
    torch.manual_seed(0)
    network = UNet(channels=(16, 16, 16), embedding=32)
    with torch.no_grad():
        for parameter in network.parameters():  # fresh ones hold zeros and ones, which a pass would rightly drop
            parameter += 0.1 * torch.randn_like(parameter)
    spec = Spec("tiny-unet", IMAGE_SHAPE, (LABEL,), "v", ScheduleSpec("cosine"))
    source = TorchSource(network.requires_grad_(False), spec, "tiny-unet", "0" * 64)
    traced = source.trace()
    return Exported(source, traced, prepare(traced.graph))
