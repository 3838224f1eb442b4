"""A one-dimensional UNet, as of Diffuser (Janner et al. 2022)."""

from torch import nn

from fewstep.export import ScheduleSpec, Spec

NAME = "UNet1DModel (diffusers)"
PLAN = "ddim:2@trailing"


class Trajectories(nn.Module):
    """Calls the network with the arguments of a denoiser."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, time):
        return self.network(x, time).sample


def make():
    from diffusers import UNet1DModel

    from tests.families.tiny import randomize

    network = UNet1DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
        up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        in_channels=6,
        out_channels=6,
        layers_per_block=1,
        norm_num_groups=4,
        use_timestep_embedding=True,
        time_embedding_type="positional",
        act_fn="mish",
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    return Trajectories(randomize(network)), Spec("trajectories", (6, 16), (), "v", ScheduleSpec("linear"))
