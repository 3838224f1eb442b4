"""Folders of diffusers with tiny networks and random weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNET: dict[str, Any] = {
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "attention_head_dim": 8,
}


def stable_diffusion_unet() -> Any:
    """A UNet of Stable Diffusion."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **UNET,
    )


def randomize(network: Any) -> Any:
    """Set weights of a trained network's size, none of them zero or one, which a pass would drop."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.1)
    return network.eval()


def diffusers_folder(
    folder: Path,
    network: Any,
    component: str = "unet",
    scheduler: Any = None,
    text_tokens: int | None = None,
    *,
    pipeline: str | None = None,
    more: Mapping[str, Any] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Write the parts of `pipeline.save_pretrained` that export reads; returns the folder's path.

    `more` are further networks (a ControlNet), `configs` the contents of other components' files, by path.
    """
    home = folder / "model"
    networks = {component: network, **(more or {})}
    for name, each in networks.items():
        randomize(each).save_pretrained(home / name)
    scheduler = scheduler or v_scheduler()
    scheduler.save_pretrained(home / "scheduler")
    configs = dict(configs or {})
    if text_tokens is not None:
        configs["text_encoder/config.json"] = {"max_position_embeddings": text_tokens}
    for path, content in configs.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(json.dumps(content))
    index = {name: ["diffusers", type(each).__name__] for name, each in networks.items()}
    (home / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))
    return str(home)


def v_scheduler() -> Any:
    """Return a scheduler of networks that predict v. An epsilon of random weights would be divided by an alpha near
    0.
    """
    import diffusers

    return diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False)


def tokenizers(**lengths: int) -> dict[str, dict[str, int]]:
    """Return the files that give the length of texts, for tokenizers of these names."""
    return {f"{name}/tokenizer_config.json": {"model_max_length": length} for name, length in lengths.items()}
