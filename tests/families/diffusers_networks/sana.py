"""Sana (Xie et al. 2024): linear attention, convolutions between, a text with a mask."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize
from tests.recorded_pipelines.components import write
from tests.tiny_pipelines import t5

NAME = "SanaTransformer2DModel (diffusers folder)"
PLAN = "scheduler:2"
GUIDANCE = 2.0  # otherwise a calibrated body has the weight of its pipeline


def make(folder: Path) -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, SanaTransformer2DModel

    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts = {"transformer": randomize(network), "scheduler": scheduler}
    home = write(folder / "model", "SanaPipeline", **parts, vae=None, text_encoder=t5(12))
    call = ("max_sequence_length=12", "use_resolution_binning=false", "complex_human_instruction=null")
    return {"source": str(home), "call": (*call, "height=256", "width=256")}
