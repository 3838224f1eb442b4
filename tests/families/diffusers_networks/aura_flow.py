"""AuraFlow: registers besides the text, joint and single blocks, on a straight path."""

from pathlib import Path

from tests.families.tiny import diffusers_folder, tokenizers

NAME = "AuraFlowTransformer2DModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
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
    return diffusers_folder(
        folder, network, "transformer", scheduler, pipeline="AuraFlowPipeline", configs=tokenizers(tokenizer=5)
    )
