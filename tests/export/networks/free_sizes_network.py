"""A network with free height and width, as a source of `export`: a downsampling, attention, and a picture."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Size, Spec


class Network(nn.Module):
    """Few operations, since with free sizes torch takes long for each. The family `unet_free_sizes` has a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.first, self.picture = nn.Linear(1, 16), nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(1, 16, 1)
        self.down, self.qkv = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Conv2d(32, 96, 1)
        self.out, self.up = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, picture: Tensor) -> Tensor:
        shift = F.silu(self.time(time[:, None] / 1000))[:, :, None, None]
        wide = F.silu(self.first(x) + self.picture(picture) + shift)
        small = self.down(wide)
        b, c, h, w = small.shape
        q, k, v = self.qkv(small).reshape(b, 3, 2, c // 2, h * w).transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w)
        h = F.interpolate(small + self.out(attended), scale_factor=2.0)
        made: Tensor = self.last(wide + F.silu(self.up(h)))
        return made


def make() -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    picture = Condition("picture", "picture", (1, 8, 12), "float32", typical=(-1, 1), follows={1: "height", 2: "width"})
    sizes = (Size("height", axis=1, low=4, high=32, multiple=2), Size("width", axis=2, low=4, high=32, multiple=2))
    return Network(), Spec("pictures", (1, 8, 12), (picture,), "v", ScheduleSpec("cosine"), sizes=sizes)
