"""The classes of diffusers' networks that fewstep knows, each by the function of its name that reads its config."""

from fewstep.export.sources.diffusers import transformers, unets
from fewstep.export.sources.diffusers.interface import Reader

CLASSES: tuple[Reader, ...] = tuple(
    reader for module in (unets, transformers) for name, reader in vars(module).items() if name.endswith("Model")
)
REFUSED = {  # classes that are often asked for -> why they are not among them
    "Lumina2Transformer2DModel": "cuts its tokens to the length of each text, one sample at a time",
    "LuminaNextDiT2DModel": "turns its tokens by complex numbers, which ONNX has not",
    "UNetSpatioTemporalConditionModel": "makes films",
    "UNet3DConditionModel": "makes films",
    "UNetMotionModel": "makes films",
}
