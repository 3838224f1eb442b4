"""A U-Net of diffusers (UNet2DModel) on Fashion-MNIST, with attention at two of its three resolutions. It is trained as
DDPM (Ho et al. 2020, arXiv 2006.11239), with larger weights at high noise (`denoising.py`)."""

import pictures
from denoising import Trained
from diffusers import UNet2DModel
from torch import Tensor, nn

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import upsample
from fewstep.models.training import Recipe

SPEC = Spec("unet_epsilon_linear", (1, 28, 28), (pictures.LABEL,), "epsilon", ScheduleSpec("linear", 1000, 1e-4, 0.02))
RECIPE = Recipe(steps=2_000, batch=16, rate=1e-3, seed=0)
DATA = pictures.FASHION


class Enlarge(nn.Module):
    """Upsample2D of diffusers without its branch on the batch size, which a graph for any batch cannot contain."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(upsample(x))


class Network(nn.Module):
    """Predicts the noise in x [B, 1, 28, 28] at timestep time [B] in [0, 1000), for labels [B] in 0..9 or `NULL`."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=28,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(16, 32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=16,
            num_class_embeds=pictures.CLASSES + 1,
        )
        for block in self.unet.up_blocks:
            if block.upsamplers is not None:
                block.upsamplers = nn.ModuleList([Enlarge(upsampler.conv) for upsampler in block.upsamplers])

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self.unet(x, time, label, return_dict=False)[0]


make = Trained(__file__, Network, SPEC)
