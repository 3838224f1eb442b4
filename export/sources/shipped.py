"""The denoisers that fewstep ships."""

import hashlib
from importlib.resources import files
from pathlib import Path

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition


def fashion_mnist() -> TorchSource:
    """Load the class-conditional UNet on Fashion-MNIST, 28x28 gray images in [-1, 1]."""
    from fewstep.models.fashion_mnist import unet as grey

    digest = _fingerprint(Path(grey.__file__).with_name(grey.WEIGHTS))
    spec = Spec("fashion_mnist", grey.IMAGE_SHAPE, (_class_condition(grey.CLASSES),), "v", ScheduleSpec("cosine"))
    return TorchSource(grey.load(), spec, "fashion_mnist", digest)


def cifar10() -> TorchSource:
    """Load the class-conditional UNet on CIFAR-10, 32x32 colour images in [-1, 1]: a rectified flow."""
    from fewstep.models.cifar10 import data, unet

    weights = Path(unet.__file__).resolve().with_name(unet.WEIGHTS)  # in the clone to which editable installs link
    digest = _fingerprint(weights)
    spec = Spec("cifar10", unet.IMAGE_SHAPE, (_class_condition(data.CLASSES),), "flow", ScheduleSpec("flow"))
    return TorchSource(unet.load(weights), spec, "cifar10", digest)


def _class_condition(names: tuple[str, ...]) -> Condition:
    """Return the condition for class labels with these names. Its null value is the number after that of the last
    class."""
    return Condition(name="class", input="class", null=len(names), low=0, high=len(names) - 1, labels=names)


def _fingerprint(weights: Path) -> str:
    """Return the SHA-256 of the files that define the network with these weights. Raises UserError if they are not
    installed."""
    if not weights.is_file():
        fix = "pip install -e . --config-settings editable_mode=strict in a clone, which has them"
        raise UserError(f"the weights {weights.name} are not installed", fix)
    parts = (files("fewstep.models") / "blocks.py", weights.with_name("unet.py"), weights)
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


SHIPPED = (fashion_mnist, cifar10)
NAMES = tuple(source.__name__ for source in SHIPPED)
GIVE_SOURCE = (
    "give ORG/NAME of a hub, a folder of diffusers or LeRobot, FILE.py:FUNCTION, FILE.onnx with --spec, "
    f"or one of {', '.join(NAMES)}"
)


def load_shipped(name: str) -> TorchSource:
    """Load the shipped denoiser of that name."""
    for source in SHIPPED:
        if source.__name__ == name:
            return source()
    raise UserError(
        f"{name!r} is not a file, a folder, a shipped model or a hub model (ORG/NAME)",
        GIVE_SOURCE,
    )
