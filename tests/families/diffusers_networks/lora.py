"""A UNet of Stable Diffusion with a LoRA in kohya's names merged into it, its skip connections scaled, and FreeU."""

from pathlib import Path
from typing import Any

from tests.families.tiny import stable_diffusion_folder, stable_diffusion_unet

NAME = "UNet2DConditionModel with LoRA, Skip-Tuning and FreeU"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0  # otherwise a calibrated body has the weight of its pipeline
RANK = 4


def make(folder: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    network = stable_diffusion_unet()
    source = stable_diffusion_folder(folder, network)
    tensors = {}
    for name, layer in network.named_modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
            out, given, *kernel = layer.weight.shape
            stem = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{stem}.lora_down.weight"] = torch.randn(RANK, given, *kernel) / given**0.5
            tensors[f"{stem}.lora_up.weight"] = 0.1 * torch.randn(out, RANK, *[1] * len(kernel))
            tensors[f"{stem}.alpha"] = torch.tensor(RANK / 2)
    save_file(tensors, folder / "lora.safetensors")
    lora = f"{folder / 'lora.safetensors'}:0.8"
    return {"source": source, "lora": (lora,), "change": ("skip_tuning:0.8,1", "freeu:1.1,1.2,0.9,0.8")}
