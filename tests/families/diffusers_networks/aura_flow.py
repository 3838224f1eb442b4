"""AuraFlow: registers besides the text, joint and single blocks, on a straight path."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize
from tests.recorded_pipelines.components import write
from tests.tiny_pipelines import autoencoder, t5

NAME = "AuraFlowTransformer2DModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> dict[str, Any]:
    from diffusers import AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

    network = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pos_embed_max_size=16,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    parts = {"transformer": randomize(network), "scheduler": scheduler}
    home = write(folder / "model", "AuraFlowPipeline", **parts, vae=autoencoder(), text_encoder=t5(12))
    return {"source": str(home), "call": ("max_sequence_length=12", "height=16", "width=16")}
