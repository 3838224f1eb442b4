"""The denoisers that fewstep ships."""

import hashlib
from importlib.resources import files

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition, ScheduleSpec


def fashion_mnist() -> TorchSource:
    """The class-conditional UNet on Fashion-MNIST, 28x28 grey images in [-1, 1]."""
    from fewstep.models.fashion_mnist import unet

    condition = Condition(
        name="class", input="class", null=unet.NULL_CLASS, low=0, high=unet.NULL_CLASS - 1, labels=unet.CLASSES
    )
    spec = Spec("fashion_mnist", unet.IMAGE_SHAPE, (condition,), "v", ScheduleSpec("cosine", timesteps=1000))
    folder = files("fewstep.models.fashion_mnist")
    weights = folder / unet.WEIGHTS
    if not weights.is_file():
        raise UserError(f"the weights {unet.WEIGHTS} are not installed", "install fewstep again, with its data files")
    blocks = files("fewstep.models") / "blocks.py"  # whatever defines the network
    content = blocks.read_bytes() + (folder / "unet.py").read_bytes() + weights.read_bytes()
    return TorchSource(unet.load(), spec, "fashion_mnist", hashlib.sha256(content).hexdigest())


def ddpm_cifar10() -> TorchSource:
    """The architecture of DDPM on CIFAR-10 with random weights: for timing, its samples mean nothing."""
    from fewstep.models import ddpm_cifar10 as model

    spec = Spec("ddpm_cifar10", model.IMAGE_SHAPE, (), "epsilon", ScheduleSpec("linear"))
    content = (files("fewstep.models") / "ddpm_cifar10.py").read_bytes()
    return TorchSource(model.make(), spec, "ddpm_cifar10", hashlib.sha256(content).hexdigest())


SHIPPED = (fashion_mnist, ddpm_cifar10)


def load_shipped(name: str) -> TorchSource:
    """The shipped denoiser of that name."""
    for source in SHIPPED:
        if source.__name__ == name:
            return source()
    known = ", ".join(source.__name__ for source in SHIPPED)
    raise UserError(
        f"there is no file or folder {name!r}, no shipped model has that name, and nothing is downloaded",
        f"give a folder of diffusers or LeRobot, FILE.py:FUNCTION, FILE.onnx with --spec, or one of {known}",
    )
