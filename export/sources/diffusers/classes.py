"""The diffusers network classes that fewstep supports. For each, a function of the same name reads the config."""

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
FILMS = "generates videos"
REFUSED = {  # reasons why some frequently requested classes are not supported
    "Lumina2Transformer2DModel": "cuts its tokens to the length of each text, one sample at a time",
    "LuminaNextDiT2DModel": "rotates its tokens by complex numbers, which ONNX does not support",
    **dict.fromkeys(
        (
            "AllegroTransformer3DModel",
            "AnyFlowFARTransformer3DModel",
            "AnyFlowTransformer3DModel",
            "ChronoEditTransformer3DModel",
            "CogVideoXTransformer3DModel",
            "ConsisIDTransformer3DModel",
            "CosmosTransformer3DModel",
            "EasyAnimateTransformer3DModel",
            "HeliosTransformer3DModel",
            "HunyuanVideo15Transformer3DModel",
            "HunyuanVideoFramepackTransformer3DModel",
            "HunyuanVideoTransformer3DModel",
            "Kandinsky5Transformer3DModel",
            "LTX2VideoTransformer3DModel",
            "LTXVideoTransformer3DModel",
            "LatteTransformer3DModel",
            "MochiTransformer3DModel",
            "MotifVideoTransformer3DModel",
            "SanaVideoTransformer3DModel",
            "SkyReelsV2Transformer3DModel",
            "UNet3DConditionModel",
            "UNetMotionModel",
            "UNetSpatioTemporalConditionModel",
            "WanAnimateTransformer3DModel",
            "WanTransformer3DModel",
            "WanVACETransformer3DModel",
        ),
        FILMS,
    ),
}
