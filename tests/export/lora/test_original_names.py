"""The names of original code, compared with diffusers' conversion of checkpoints whose blocks have their real sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fewstep.export.lora.merge import layers_with_weights, lone_parameters
from fewstep.runtime.lora.aliases import Place
from fewstep.runtime.lora.keys import NamedLayers
from fewstep.runtime.lora.original_names import (
    FLUX,
    FLUX_2,
    HUNYUAN_VIDEO,
    LTX,
    LUMINA_2,
    STABLE_DIFFUSION_3,
    WAN,
    Z_IMAGE,
    OriginalNames,
)

diffusers = pytest.importorskip("diffusers")
utils = pytest.importorskip("diffusers.loaders.single_file_utils")

NETWORKS = {  # class, config, conversion, table
    "FLUX": ("FluxTransformer2DModel", {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}, FLUX),
    "Chroma": ("ChromaTransformer2DModel", {"num_layers": 1, "num_single_layers": 1}, FLUX),
    "FLUX.2": ("Flux2Transformer2DModel", {"num_layers": 1, "num_single_layers": 1}, FLUX_2),
    "HunyuanVideo": ("HunyuanVideoTransformer3DModel", {"num_layers": 1, "num_single_layers": 1}, HUNYUAN_VIDEO),
    "Wan": ("WanTransformer3DModel", {"num_layers": 1, "image_dim": 1280, "added_kv_proj_dim": 5120}, WAN),
    "Wan VACE": ("WanVACETransformer3DModel", {"num_layers": 1, "vace_layers": [0]}, WAN),
    "Z-Image": ("ZImageTransformer2DModel", {"n_layers": 1, "n_refiner_layers": 1}, Z_IMAGE),
    "Lumina 2": ("Lumina2Transformer2DModel", {"num_layers": 1}, LUMINA_2),
    "LTX": ("LTXVideoTransformer3DModel", {"num_layers": 1}, LTX),
    "LTX-2": ("LTX2VideoTransformer3DModel", {"num_layers": 1}, LTX),
    "SD 3.5": (
        "SD3Transformer2DModel",
        {"num_layers": 2, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
        STABLE_DIFFUSION_3,
    ),
}


def conversion(name: str) -> Callable[..., dict[str, torch.Tensor]]:
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    made: Callable[..., dict[str, torch.Tensor]] = SINGLE_FILE_LOADABLE_CLASSES[name]["checkpoint_mapping_fn"]
    return made


def rows_of(weight: Any) -> int:
    return int(weight.shape[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_name_stands_for_the_layers_to_which_diffusers_converts_it(network: str) -> None:
    kind, config, family = NETWORKS[network]
    with torch.device("meta"):
        module = getattr(diffusers, kind)(**config)
    weights = {name: each.weight for name, each in (layers_with_weights(module) | lone_parameters(module)).items()}
    layers = NamedLayers(list(weights))
    originals = [name for name in names_of(family) if ".processor." not in name]  # of trainers, not of checkpoints
    places = {name: place for name in originals if (place := layers.find(name)) is not None}
    checkpoint, numbers, first = {}, {}, 0
    for name, place in places.items():
        count = sum(rows_of(weights[layer]) for layer in place.layers)
        numbers[name] = torch.arange(first, first + count)
        first += count
        suffixes = ("",) if name.endswith("modulation") else (".weight", ".bias", ".scale")
        checkpoint |= {name + suffix: numbers[name][:, None] for suffix in suffixes}
    checkpoint |= {name: torch.zeros(6, 4) for name in others_of(network)}
    converted = conversion(kind)(checkpoint, config=dict(module.config))
    assert len(places) >= 8, "a table whose names the network does not have tests nothing"
    for name, place in places.items():
        assert torch.equal(from_layers(place, converted), numbers[name]), name


def names_of(family: OriginalNames) -> list[str]:
    return [name.replace(".N.", f".{number}.") for name in family.table for number in range(5)]


def others_of(network: str) -> list[str]:
    """Return the names of weights that a conversion requires besides those of the table."""
    both = ("weight", "bias")
    if network.startswith("SD"):
        return ["pos_embed", "context_embedder.weight", "context_embedder.bias"]
    if network == "Chroma":
        home = "distilled_guidance_layer"
        norms = [f"{home}.norms.{number}.scale" for number in range(5)]
        return [*norms, *(f"{home}.{name}_proj.{kind}" for name in ("in", "out") for kind in both)]
    return []


def from_layers(place: Place, converted: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the rows of the layers that a place names, in the order of the original weight."""
    rows = torch.cat([converted.get(f"{layer}.weight", converted.get(layer))[:, 0] for layer in place.layers])  # type: ignore[index]
    return rows.roll(len(rows) // 2) if place.is_swapped else rows
