"""HunyuanDiT (Li et al. 2024): skips between blocks, rotary embeddings, texts of two encoders."""

from pathlib import Path

from tests.families.tiny import diffusers_folder

NAME = "HunyuanDiT2DModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import DDIMScheduler, HunyuanDiT2DModel

    network = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=2,
        cross_attention_dim=8,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
        text_len=3,
        text_len_t5=4,
    )
    scheduler = DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear", clip_sample=False)
    return diffusers_folder(folder, network, "transformer", scheduler, pipeline="HunyuanDiTPipeline")
