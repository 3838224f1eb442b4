"""Denoisers small enough to export in seconds."""

import pytest
import torch

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.graph.prepare import prepare
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE, NULL_CLASS
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.export.denoisers import Attending, Exported, SmallUNet, source

torch.set_num_threads(1)  # the networks are tiny: a second thread only waits

LABEL = Condition("class", "class", null=NULL_CLASS, low=0, high=NULL_CLASS - 1, labels=CLASSES)


@pytest.fixture(scope="session")
def unet() -> Exported:
    """A small U-Net of the shipped one's layers, with random weights."""
    torch.manual_seed(0)
    network = SmallUNet()
    with torch.no_grad():
        for parameter in network.parameters():  # fresh ones hold zeros and ones, which a pass would rightly drop
            parameter += 0.1 * torch.randn_like(parameter)
    spec = Spec("tiny-unet", IMAGE_SHAPE, (LABEL,), "v", ScheduleSpec("cosine"))
    return _export(TorchSource(network.requires_grad_(False), spec, "tiny-unet", "0" * 64))


@pytest.fixture(scope="session")
def attending() -> Exported:
    return _export(source(Attending()))


def _export(its: TorchSource) -> Exported:
    traced = its.trace()
    return Exported(its, traced, prepare(traced.graph))
