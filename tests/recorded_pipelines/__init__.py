"""Folders of diffusers pipelines that export records, with tiny networks and random weights, and their calls."""

from typing import Any

from tests.recorded_pipelines.components import TEXT, TOKENS
from tests.recorded_pipelines.images import (
    bria,
    chroma,
    chroma_image_to_image,
    cogview3,
    flux2_klein,
    lumina,
    lumina2,
    perturbed_attention,
    qwen_image,
)
from tests.recorded_pipelines.videos import (
    allegro,
    cogvideox,
    cogvideox_image_to_video,
    ltx,
    mochi,
    text_to_video,
    wan,
    wan_with_times_of_positions,
    wan_with_two_networks,
)

__all__ = [
    "CALLS",
    "TEXT",
    "TOKENS",
    "allegro",
    "bria",
    "chroma",
    "chroma_image_to_image",
    "cogvideox",
    "cogvideox_image_to_video",
    "cogview3",
    "flux2_klein",
    "ltx",
    "lumina",
    "lumina2",
    "mochi",
    "perturbed_attention",
    "qwen_image",
    "text_to_video",
    "wan",
    "wan_with_times_of_positions",
    "wan_with_two_networks",
]

CALLS: dict[str, dict[str, Any]] = {
    "flux2_klein": {"height": 16, "width": 16, "max_sequence_length": 64, "text_encoder_out_layers": (1,)},
    "wan": {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": TOKENS},
    "wan_with_times_of_positions": {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": TOKENS},
    "wan_with_two_networks": {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": TOKENS},
    "ltx": {"height": 64, "width": 64, "num_frames": 9, "max_sequence_length": TOKENS},
    "cogvideox": {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": TOKENS},
    "cogvideox_image_to_video": {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": TOKENS},
    "chroma": {"height": 64, "width": 64, "max_sequence_length": TOKENS},
    "lumina2": {"height": 32, "width": 32, "max_sequence_length": 40, "system_prompt": "a"},
    "bria": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "cogview3": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "lumina": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "qwen_image": {"height": 32, "width": 32, "max_sequence_length": 224},
    "perturbed_attention": {},
    "mochi": {"height": 16, "width": 16, "num_frames": 7, "max_sequence_length": TOKENS},
    "chroma_image_to_image": {"height": 16, "width": 16, "max_sequence_length": TOKENS},
    "text_to_video": {"height": 16, "width": 16, "num_frames": 4},
    "allegro": {"height": 32, "width": 32, "num_frames": 8, "max_sequence_length": TOKENS},
}
