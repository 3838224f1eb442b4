"""A one-dimensional UNet, as of Diffuser (Janner et al. 2022)."""

from pathlib import Path

from tests.families.tiny import diffusers_folder

NAME = "UNet1DModel (diffusers folder)"
PLAN = "ddim:2@trailing"


def make(folder: Path) -> str:
    from diffusers import UNet1DModel

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
    return diffusers_folder(folder, network)
