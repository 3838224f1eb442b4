"""A flow network with one long residual stream without norms. The outputs that blocks add to it grow tenfold from block
to block and have heavy tails. Later blocks add less, and 1 x 1 convolutions carry the stream to its end, with values
beyond 1e5."""

import pictures
from denoising import Trained
from strangers import Attention, Block, Norm
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Recipe

FOLD = 2  # pixels along a side of one position
SCALE = 100.0  # factor of the input at the start of the stream
GROWTHS = (1e2, 1e3, 1e4, 1e5, 3e4, 3e4, 3e4)  # factors of the outputs of blocks
WIDTHS = (40, 40, 56, 72, 56, 56, 40, 40)
SPEC = Spec("residual_outliers", (1, 28, 28), (pictures.LABEL,), "flow", ScheduleSpec("flow", timesteps=1000))
RECIPE = Recipe(steps=700, batch=32, rate=1e-3, seed=0)
DATA = pictures.FASHION


class Network(nn.Module):
    """Predicts the velocity eps - x0 of x [B, 1, 28, 28] at time [B] in [0, 1000] for labels [B]."""

    def __init__(self, embedding: int = 96) -> None:
        super().__init__()
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.classes = nn.Embedding(pictures.CLASSES + 1, embedding)
        self.conv_in = nn.Conv2d(FOLD**2, WIDTHS[0], 3, padding=1)
        sizes = zip(WIDTHS[:-1], WIDTHS[1:], GROWTHS, strict=True)
        self.blocks = nn.ModuleList(
            Block(a, b, embedding, growth, gated=growth != GROWTHS[-1]) for a, b, growth in sizes
        )
        self.attention = Attention(WIDTHS[4], growth=GROWTHS[-1])
        self.norm_out = Norm(WIDTHS[-1])
        self.conv_out = nn.Conv2d(WIDTHS[-1], FOLD**2, 3, padding=1)
        zero(self.conv_out)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.classes(label))
        h = SCALE * self.conv_in(F.pixel_unshuffle(x, FOLD))
        for number, block in enumerate(self.blocks):
            h = block(h, embedding)
            h = self.attention(h) if number == 3 else h
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), FOLD)


make = Trained(__file__, Network, SPEC)
