"""The classes of diffusers' networks that fewstep knows, each by the function of its name that reads its config."""

from fewstep.export.sources.diffusers.interface import Reader
from fewstep.export.sources.diffusers.transformers import (
    AuraFlowTransformer2DModel,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)
from fewstep.export.sources.diffusers.unets import UNet1DModel, UNet2DConditionModel, UNet2DModel

CLASSES: tuple[Reader, ...] = (
    UNet2DModel,
    UNet2DConditionModel,
    UNet1DModel,
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    FluxTransformer2DModel,
    SanaTransformer2DModel,
    AuraFlowTransformer2DModel,
    HunyuanDiT2DModel,
)
REFUSED = {  # classes that are often asked for -> why they are not among them
    "Lumina2Transformer2DModel": "cuts its tokens to the length of each text, one sample at a time",
    "LuminaNextDiT2DModel": "turns its tokens by complex numbers, which ONNX has not",
    "UNetSpatioTemporalConditionModel": "makes films",
    "UNet3DConditionModel": "makes films",
    "UNetMotionModel": "makes films",
}
