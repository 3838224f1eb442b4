"""The classes of diffusers' networks that fewstep knows, each by the function of its name that reads its config."""

from fewstep.export.sources.diffusers import transformers, unets
from fewstep.export.sources.diffusers.interface import Reader

CLASSES: tuple[Reader, ...] = (
    unets.UNet2DModel,
    unets.UNet2DConditionModel,
    unets.UNet1DModel,
    transformers.DiTTransformer2DModel,
    transformers.PixArtTransformer2DModel,
    transformers.SD3Transformer2DModel,
    transformers.FluxTransformer2DModel,
    transformers.SanaTransformer2DModel,
    transformers.AuraFlowTransformer2DModel,
    transformers.HunyuanDiT2DModel,
)
REFUSED = {  # classes that are often asked for -> why they are not among them
    "Lumina2Transformer2DModel": "cuts its tokens to the length of each text, one sample at a time",
    "LuminaNextDiT2DModel": "turns its tokens by complex numbers, which ONNX has not",
    "UNetSpatioTemporalConditionModel": "makes films",
    "UNet3DConditionModel": "makes films",
    "UNetMotionModel": "makes films",
}
