"""The denoisers that fewstep ships."""

import hashlib
from importlib.resources import files

from fewstep.export.spec import Source, Spec
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition, ScheduleSpec


def fashion_mnist() -> Source:
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
    content = (folder / "unet.py").read_bytes() + weights.read_bytes()
    return Source(unet.load(), spec, "fashion_mnist", hashlib.sha256(content).hexdigest())


SHIPPED = (fashion_mnist,)


def load_shipped(name: str) -> Source:
    """The shipped denoiser of that name."""
    for source in SHIPPED:
        if source.__name__ == name:
            return source()
    known = ", ".join(source.__name__ for source in SHIPPED)
    raise UserError(f"there is no shipped model {name!r}", f"give one of {known}, or FILE.py:FUNCTION")
