"""The contents of LoRA slots: the layers that have one, and the factors of every form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.export.lora.delta import compute_update
from fewstep.export.lora.slots import SlotRequest, find_slots
from fewstep.plans.errors import UserError
from fewstep.runtime.lora.factors import factorize
from fewstep.runtime.lora.file import AlphaScale, read_lora, read_tensors
from fewstep.runtime.lora.shapes import fits_weight, update_shape
from fewstep.runtime.lora.slot_values import slot_values
from tests.refusals import refuses


def test_slots_are_asked_for_by_layers() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.ModuleList([nn.Linear(3, 2), nn.Conv2d(2, 2, 1, groups=2)])})
    assert find_slots(module, SlotRequest(("b",))).layers == {"b.0": (2, 3)}
    assert find_slots(module, SlotRequest(("a", "b.0"))).layers == {"a": (3, 2), "b.0": (2, 3)}
    with refuses(("--lora-slots c", "ModuleDict"), ("'a'", "'b.0'")):
        find_slots(module, SlotRequest(("c",)))
    with pytest.raises(UserError, match="--rank is 0; give 1 to"):
        SlotRequest(("a",), 0)


def test_a_fused_layer_goes_to_the_slots_of_its_parts(tmp_path: Path) -> None:
    attention = nn.ModuleDict({part: nn.Linear(3, 4) for part in ("to_q", "to_k", "to_v")})
    block = nn.ModuleDict({"attn": attention, "proj_mlp": nn.Linear(3, 6)})
    slots = find_slots(nn.ModuleDict({"single_transformer_blocks": nn.ModuleList([block])}), SlotRequest(("*",)))
    up, down = torch.randn(18, 2), torch.randn(2, 3)
    stem = "diffusion_model.single_blocks.0.linear1"
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, tmp_path / "a.safetensors")
    inputs = slot_values(slots, [read_lora(str(tmp_path / "a.safetensors"))])
    parts = [inputs[f"lora_down.{name}"] @ inputs[f"lora_up.{name}"] for name in slots.layers]
    np.testing.assert_allclose(np.concatenate(parts, axis=1).T, (up @ down).numpy(), rtol=1e-5, atol=1e-6)


def test_every_form_is_a_product_of_two_factors() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    ab = {"hada_w1_a": (6, 2), "hada_w1_b": (2, 36), "hada_w2_a": (6, 3), "hada_w2_b": (3, 36)}
    core = {"hada_w1_a": (2, 6), "hada_w1_b": (2, 4), "hada_w2_a": (2, 6), "hada_w2_b": (2, 4)}
    for parts in (
        drawn(up=(6, 2, 1, 1), down=(2, 4, 3, 3)),
        drawn(up=(6, 3, 1, 1), mid=(3, 2, 3, 3), down=(2, 4, 1, 1)),
        drawn(**ab),
        drawn(**core, hada_t1=(2, 2, 3, 3), hada_t2=(2, 2, 3, 3)),
        drawn(lokr_w1=(2, 2), lokr_w2=(3, 2, 3, 3)),
        drawn(lokr_w1_a=(2, 1), lokr_w1_b=(1, 2), lokr_w2_a=(3, 2), lokr_w2_b=(2, 2, 3, 3)),
        drawn(lokr_w1=(2, 2), lokr_w2_a=(2, 3), lokr_w2_b=(2, 2), lokr_t2=(2, 2, 3, 3)),
        drawn(diff=(6, 4, 3, 3)),
        drawn(diff=(40, 4, 3, 3)),
    ):
        scale = AlphaScale(3.0)
        up, down = factorize({name: tensor.numpy() for name, tensor in parts.items()}, scale)
        change = compute_update(parts, scale)
        assert update_shape({name: tensor.numpy() for name, tensor in parts.items()}) == change.shape
        expected = change.flatten(1).numpy()
        np.testing.assert_allclose(up @ down, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("update", "weight", "fits"),
    [
        ((6, 4, 3, 3), (6, 4, 3, 3), True),
        ((6, 36), (6, 4, 3, 3), True),  # a matrix, as LoKr and LoHa have it
        ((6, 4, 1, 1), (6, 4), True),
        ((6, 4), (6, 4, 1, 1), True),
        ((6, 3, 3, 4), (6, 4, 3, 3), False),  # axes in another order
        ((6, 4, 9), (6, 4, 3, 3), False),
        ((6, 4, 3, 3), (6, 36), False),
        ((4, 36), (6, 24), False),
    ],
)
def test_an_update_has_the_dimensions_of_its_weight(
    update: tuple[int, ...], weight: tuple[int, ...], fits: bool
) -> None:
    assert fits_weight(update, weight) is fits


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_files_of_every_float_are_read_without_torch(tmp_path: Path, dtype: str) -> None:
    values = torch.tensor([0.0, 1.0, -2.5, 0.0019, 300.0]).to(getattr(torch, dtype))
    save_file({"a": values}, tmp_path / "a.safetensors", {"one": "1"})
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert np.array_equal(tensors["a"], values.float().numpy()) and metadata == {"one": "1"}


def test_updates_in_whole_numbers_are_refused(tmp_path: Path) -> None:
    """They are quantized, without their scales in the file."""
    parts = {"lora_down.weight": torch.ones(1, 3), "lora_up.weight": torch.ones(5, 1).char(), "alpha": torch.tensor(1)}
    save_file({f"lora_unet_0.{part}": each for part, each in parts.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="stores 'lora_unet_0.lora_up.weight' as integers"):
        read_lora(str(tmp_path / "a.safetensors"))


def test_an_alpha_may_be_a_whole_number(tmp_path: Path) -> None:
    parts = {"lora_down.weight": torch.ones(1, 3), "lora_up.weight": torch.ones(5, 1), "alpha": torch.tensor(2)}
    save_file({f"lora_unet_0.{part}": each for part, each in parts.items()}, tmp_path / "a.safetensors")
    assert read_lora(str(tmp_path / "a.safetensors")).updates["denoiser", "lora_unet_0"]["alpha"] == 2.0
