"""The diffusers network classes that fewstep supports. For each, a function of the same name reads the config."""

from fewstep.pipelines.listed import transformers, unets
from fewstep.pipelines.listed.interface import Reader

CLASSES: tuple[Reader, ...] = (
    unets.UNet2DModel,
    unets.UNet2DConditionModel,
    unets.UNet1DModel,
    transformers.DiTTransformer2DModel,
    transformers.FluxTransformer2DModel,
)
