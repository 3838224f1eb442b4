"""Pipelines of sound."""

from pathlib import Path

from tests.recorded_pipelines.components import TEXT, write
from tests.tiny_pipelines import randomize


def longcat_audio(folder: Path) -> Path:
    """LongCat-AudioDiT: x has its frames before its channels. A convolutional autoencoder returns the wave."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.models import LongCatAudioDiTTransformer, LongCatAudioDiTVae

    network = LongCatAudioDiTTransformer(
        dit_dim=16, dit_depth=1, dit_heads=2, dit_text_dim=TEXT, latent_dim=4, text_conv=False
    )
    vae = LongCatAudioDiTVae(
        in_channels=1,
        channels=8,
        c_mults=[1, 2],
        strides=[2],
        latent_dim=4,
        encoder_latent_dim=8,
        downsampling_ratio=2,
        sample_rate=8000,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, invert_sigmas=True)
    parts = {"transformer": randomize(network), "vae": randomize(vae), "scheduler": scheduler}
    write(folder, "LongCatAudioDiTPipeline", **parts)
    scheduler.save_pretrained(folder / "scheduler")  # the pipeline leaves it out
    return folder
