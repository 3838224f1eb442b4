"""LoRA files in the names of original code: merged as diffusers merges them, and what it drops as the format says."""

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.export.lora.merge import layers_with_weights, merge
from fewstep.runtime.kinds.lora_slots import LoraSlots, slot_port
from fewstep.runtime.lora.file import lora_of, read_lora
from fewstep.runtime.lora.slot_values import slot_values
from tests.export.lora.lora_files import ALPHA, RANK, assert_same
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")
WIDTH, HIDDEN = 24, 16
COMFY, KOHYA = "diffusion_model.", "lora_unet_"


@pytest.fixture(scope="module")
def wan() -> nn.Module:
    torch.manual_seed(0)
    heads: Any = {"num_attention_heads": 2, "attention_head_dim": 12, "patch_size": (1, 1, 1), "rope_max_seq_len": 16}
    sizes = {"in_channels": 8, "out_channels": 8, "text_dim": 16, "freq_dim": 32, "ffn_dim": HIDDEN, "num_layers": 2}
    made: nn.Module = diffusers.WanTransformer3DModel(**heads, **sizes)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def z_image() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = diffusers.ZImageTransformer2DModel(
        all_patch_size=[2],
        all_f_patch_size=[1],
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 2, 2],
        axes_lens=[256, 32, 32],
    )
    for token in ("x_pad_token", "cap_pad_token"):  # diffusers leaves them uninitialised
        nn.init.zeros_(getattr(made, token))
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def flux() -> nn.Module:
    torch.manual_seed(0)
    heads: Any = {"attention_head_dim": 8, "num_attention_heads": 2, "axes_dims_rope": (2, 2, 4)}
    sizes = {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 12}
    made: nn.Module = diffusers.FluxTransformer2DModel(**heads, **sizes, pooled_projection_dim=10)
    return made.requires_grad_(False)


def factors(
    layers: Mapping[str, tuple[int, int]],
    names: tuple[str, str] = ("lora_down", "lora_up"),
    alpha: float | None = ALPHA,
) -> dict[str, Tensor]:
    """Return random factors of layers, whose names are those of the file, with [outputs, inputs] of each."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for layer, (outputs, inputs) in layers.items():
        tensors[f"{layer}.{names[0]}.weight"] = 0.3 * torch.randn(RANK, inputs, generator=generator)
        tensors[f"{layer}.{names[1]}.weight"] = 0.3 * torch.randn(outputs, RANK, generator=generator)
        if alpha is not None:
            tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    return tensors


def wan_layers(prefix: str, dot: str = ".") -> dict[str, tuple[int, int]]:
    attention = [f"{kind}{dot}{part}" for kind in ("self_attn", "cross_attn") for part in "qkvo"]
    sizes = dict.fromkeys(attention, (WIDTH, WIDTH))
    sizes |= {f"ffn{dot}0": (HIDDEN, WIDTH), f"ffn{dot}2": (WIDTH, HIDDEN)}
    return {f"{prefix}blocks{dot}{n}{dot}{layer}": size for n in range(2) for layer, size in sizes.items()}


def merge_file(base: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> nn.Module:
    save_file(dict(tensors), file)
    module = copy.deepcopy(base)
    merge(module, read_lora(str(file)))
    return module


def fuse(base: nn.Module, tensors: Mapping[str, Tensor], pipeline: Any) -> dict[str, Tensor]:
    """Return the weights after diffusers' load_lora_weights and fuse_lora."""
    pytest.importorskip("peft")
    others = dict.fromkeys(list(inspect.signature(pipeline).parameters))
    pipe = pipeline(**{**others, "transformer": copy.deepcopy(base)})
    pipe.load_lora_weights({key: value.clone() for key, value in tensors.items()})  # diffusers scales in place
    pipe.fuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
    state: dict[str, Tensor] = pipe.transformer.state_dict()
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if "lora_" not in name}


HEAD = {"head.head": (8, WIDTH), "time_embedding.2": (WIDTH, WIDTH), "time_projection.1": (6 * WIDTH, WIDTH)}


@pytest.mark.parametrize("form", ["down", "A", "kohya", "head", "bias"])
def test_a_file_of_wan_is_merged_as_by_diffusers(form: str, wan: nn.Module, tmp_path: Path) -> None:
    tensors = factors(wan_layers(COMFY))
    if form == "A":
        tensors = factors(wan_layers(COMFY), ("lora_A", "lora_B"), None)
    elif form == "kohya":
        tensors = factors(wan_layers(KOHYA, "_"))
    elif form == "head":
        tensors |= factors({COMFY + name: size for name, size in HEAD.items()}, alpha=None)
    elif form == "bias":
        tensors |= {f"{COMFY}blocks.0.ffn.0.diff_b": torch.randn(HIDDEN)}
    state = fuse(wan, tensors, diffusers.WanPipeline)
    assert sum(not torch.equal(value, wan.state_dict()[name]) for name, value in state.items()) >= 20
    assert_same(merge_file(wan, tensors, tmp_path / "a.safetensors"), state)


def test_differences_of_norms_and_of_modulations_are_added(wan: nn.Module, tmp_path: Path) -> None:
    """diffusers drops these keys without an error."""
    sizes = {  # key of the file -> parameter
        "blocks.1.norm3.diff": "blocks.1.norm2.weight",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.0.diff_m": "blocks.0.scale_shift_table",
        "head.diff_m": "scale_shift_table",
    }
    expected, tensors = {name: value.clone() for name, value in wan.state_dict().items()}, {}
    for key, name in sizes.items():
        tensors[COMFY + key] = torch.randn(expected[name].shape)
        expected[name] += tensors[COMFY + key]
    assert_same(merge_file(wan, tensors, tmp_path / "a.safetensors"), expected)


def test_a_bias_of_diffusers_has_the_scale_of_its_factors(wan: nn.Module, tmp_path: Path) -> None:
    """The bias of `lora_B`, with which diffusers writes a file that had `diff_b`."""
    layer, bias = "blocks.0.attn1.to_q", torch.randn(WIDTH)
    tensors = factors({f"transformer.{layer}": (WIDTH, WIDTH)}, ("lora_A", "lora_B"))
    module = merge_file(wan, tensors | {f"transformer.{layer}.lora_B.bias": bias}, tmp_path / "a.safetensors")
    change = module.get_submodule(layer).bias - wan.get_submodule(layer).bias  # type: ignore[operator]
    torch.testing.assert_close(change, ALPHA / RANK * bias)


def test_layers_of_another_network_are_listed(wan: nn.Module, tmp_path: Path) -> None:
    """A file for images in a network for texts: diffusers drops these layers."""
    tensors = factors(wan_layers(COMFY) | {f"{COMFY}blocks.0.cross_attn.k_img": (WIDTH, WIDTH)})
    with refuses(("WanTransformer3DModel", "blocks.0.cross_attn.k_img"), "trained for this network"):
        merge_file(wan, tensors, tmp_path / "a.safetensors")


def test_a_layer_that_a_file_changes_under_two_names_is_refused(z_image: nn.Module, tmp_path: Path) -> None:
    home = "diffusion_model.layers.0.attention"
    with refuses(("twice", f"{home}.qkv", f"{home}.to_q")):
        merge_file(z_image, factors({f"{home}.qkv": (48, 16), f"{home}.to_q": (16, 16)}), tmp_path / "a.safetensors")


def test_a_file_of_z_image_is_merged_as_by_diffusers(z_image: nn.Module, tmp_path: Path) -> None:
    home = "diffusion_model.layers.0"
    sizes = {f"{home}.attention.qkv": (48, 16), f"{home}.adaLN_modulation.0": (64, 16)}
    tensors = factors(sizes, ("lora.down", "lora.up"))
    assert_same(
        merge_file(z_image, tensors, tmp_path / "a.safetensors"), fuse(z_image, tensors, diffusers.ZImagePipeline)
    )


def test_a_file_of_xlabs_is_merged_as_by_diffusers(flux: nn.Module, tmp_path: Path) -> None:
    """The number after "lora" is that of a stream of the block. `single_blocks` have one stream."""
    sizes = {
        f"double_blocks.0.processor.{part}_lora{n}": (rows, 16)
        for part, rows in (("qkv", 48), ("proj", 16))
        for n in (1, 2)
    }
    sizes |= {"single_blocks.0.processor.qkv_lora": (48, 16), "single_blocks.0.processor.proj_lora": (16, 80)}
    tensors = {
        key.replace(".lora.down", ".down").replace(".lora.up", ".up"): tensor
        for key, tensor in factors(sizes, ("lora.down", "lora.up"), alpha=None).items()
    }
    state = fuse(flux, tensors, diffusers.FluxPipeline)
    assert sum(not torch.equal(value, flux.state_dict()[name]) for name, value in state.items()) == 12
    assert_same(merge_file(flux, tensors, tmp_path / "a.safetensors"), state)


def test_a_file_of_fal_is_that_of_the_original_names(flux: nn.Module, tmp_path: Path) -> None:
    """It has peft's prefix before them. diffusers converts such files of the real size only."""
    sizes = {
        "double_blocks.0.img_mod.lin": (96, 16),
        "double_blocks.0.txt_attn.qkv": (48, 16),
        "single_blocks.0.linear1": (112, 16),
        "single_blocks.0.linear2": (16, 80),
        "final_layer.linear": (4, 16),
    }
    own = factors(sizes, ("lora_A", "lora_B"), alpha=None)
    of_fal = merge_file(
        flux, {f"base_model.model.{key}": tensor for key, tensor in own.items()}, tmp_path / "a.safetensors"
    )
    state = of_fal.state_dict()
    changed = {name for name, value in state.items() if not torch.equal(value, flux.state_dict()[name])}
    assert len(changed) == 10
    assert_same(
        merge_file(flux, {f"diffusion_model.{key}": tensor for key, tensor in own.items()}, tmp_path / "b.safetensors"),
        state,
    )
    single = "single_transformer_blocks.0."
    update = own["single_blocks.0.linear1.lora_B.weight"] @ own["single_blocks.0.linear1.lora_A.weight"]
    mlp = state[f"{single}proj_mlp.weight"] - flux.state_dict()[f"{single}proj_mlp.weight"]
    torch.testing.assert_close(mlp, update[48:], atol=1e-6, rtol=1e-6)


def test_a_file_of_ltx_2_is_merged_as_by_diffusers(tmp_path: Path) -> None:
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "audio_num_attention_heads": 2}
    sizes = {"audio_attention_head_dim": 8, "cross_attention_dim": 16, "audio_cross_attention_dim": 16, "num_layers": 1}
    channels = {"in_channels": 4, "out_channels": 4, "audio_in_channels": 4, "audio_out_channels": 4}
    torch.manual_seed(0)
    network = diffusers.LTX2VideoTransformer3DModel(**heads, **sizes, **channels, caption_channels=12)
    network.requires_grad_(False)
    names = {  # name of the original code -> layer
        "patchify_proj": "proj_in",
        "audio_patchify_proj": "audio_proj_in",
        "adaln_single.linear": "time_embed.linear",
        "audio_adaln_single.emb.timestep_embedder.linear_1": "audio_time_embed.emb.timestep_embedder.linear_1",
        "av_ca_a2v_gate_adaln_single.linear": "av_cross_attn_video_a2v_gate.linear",
        "av_ca_v2a_gate_adaln_single.linear": "av_cross_attn_audio_v2a_gate.linear",
        "transformer_blocks.0.audio_to_video_attn.to_q": "transformer_blocks.0.audio_to_video_attn.to_q",
        "transformer_blocks.0.audio_ff.net.2": "transformer_blocks.0.audio_ff.net.2",
    }
    layers = {f"{COMFY}{name}": tuple(network.get_submodule(own).weight.shape) for name, own in names.items()}
    tensors = factors(layers, ("lora_A", "lora_B"), alpha=None)
    state = fuse(network, tensors, diffusers.LTX2Pipeline)
    assert sum(not torch.equal(value, network.state_dict()[name]) for name, value in state.items()) == len(names)
    assert_same(merge_file(network, tensors, tmp_path / "a.safetensors"), state)


def test_the_modulation_of_texts_is_swapped_in_the_last_block_only(tmp_path: Path) -> None:
    """As in diffusers' conversion of checkpoints of Stable Diffusion 3. It converts no such LoRA."""
    torch.manual_seed(0)
    heads = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 2, "caption_projection_dim": 16}
    sizes = {"sample_size": 8, "joint_attention_dim": 12, "pooled_projection_dim": 10, "in_channels": 4}
    network = diffusers.SD3Transformer2DModel(**heads, **sizes).requires_grad_(False)
    name, layer = "joint_blocks.{}.context_block.adaLN_modulation.1", "transformer_blocks.{}.norm1_context.linear"
    tensors = factors({COMFY + name.format(0): (96, 16), COMFY + name.format(1): (32, 16)})
    module = merge_file(network, tensors, tmp_path / "a.safetensors")
    for number, shift in ((0, 0), (1, 16)):
        parts = (tensors[f"{COMFY}{name.format(number)}.lora_{part}.weight"] for part in ("up", "down"))
        up, down = parts
        own, former = (whole.get_submodule(layer.format(number)).weight for whole in (module, network))
        torch.testing.assert_close(own - former, (ALPHA / RANK * up @ down).roll(shift, 0), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", ["lokr", "loha", "dora"])
def test_every_form_may_change_a_fused_layer(form: str, z_image: nn.Module, tmp_path: Path) -> None:
    """diffusers refuses these files, or drops their magnitudes."""
    layer = "diffusion_model.layers.0.attention.qkv"
    weight = torch.cat([z_image.get_parameter(f"layers.0.attention.to_{part}.weight") for part in "qkv"])
    if form == "lokr":
        tensors = {f"{layer}.lokr_w1": torch.randn(3, 2), f"{layer}.lokr_w2": torch.randn(16, 8)}
        expected = weight + torch.kron(tensors[f"{layer}.lokr_w1"], tensors[f"{layer}.lokr_w2"])
    elif form == "loha":
        sides = {
            f"{layer}.hada_w{side}_{end}": torch.randn((48, 2) if end == "a" else (2, 16))
            for side in "12"
            for end in "ab"
        }
        tensors = sides | {f"{layer}.alpha": torch.tensor(ALPHA)}
        one, two = (sides[f"{layer}.hada_w{side}_a"] @ sides[f"{layer}.hada_w{side}_b"] for side in "12")
        expected = weight + ALPHA / 2 * one * two
    else:
        tensors = factors({layer: (48, 16)}) | {f"{layer}.dora_scale": torch.rand(48, 1) + 0.5}
        moved = weight + ALPHA / RANK * tensors[f"{layer}.lora_up.weight"] @ tensors[f"{layer}.lora_down.weight"]
        expected = tensors[f"{layer}.dora_scale"] * moved / moved.norm(dim=1, keepdim=True)
    module = merge_file(z_image, tensors, tmp_path / "a.safetensors")
    weights = torch.cat([module.get_parameter(f"layers.0.attention.to_{part}.weight") for part in "qkv"])
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-6)


def test_slots_take_the_same_files(z_image: nn.Module, wan: nn.Module, tmp_path: Path) -> None:
    files = {
        "qkv": (z_image, factors({"lora_unet_layers_0_attention_qkv": (48, 16)})),
        "wan": (wan, factors(wan_layers(KOHYA, "_"))),
    }
    for name, (base, tensors) in files.items():
        module = merge_file(base, tensors, tmp_path / f"{name}.safetensors")
        shapes = {layer: tuple(own.weight.shape) for layer, own in layers_with_weights(base).items()}
        linear = {layer: shape for layer, shape in shapes.items() if len(shape) == 2}
        slots = LoraSlots(4, linear, tuple(shapes), {})
        inputs = slot_values(slots, [lora_of(tmp_path / f"{name}.safetensors", 1.0)])
        changed = {key.removeprefix("lora_up.") for key in inputs if key.startswith("lora_up.")}
        assert len(changed) == {"qkv": 3, "wan": 20}[name]
        for layer in changed:
            update = inputs[slot_port(layer, "down")] @ inputs[slot_port(layer, "up")]
            change = module.get_parameter(f"{layer}.weight") - base.get_parameter(f"{layer}.weight")
            assert np.abs(update.T - change.numpy()).max() < 1e-6


def test_a_slot_has_the_outputs_in_the_network_s_order(tmp_path: Path) -> None:
    """FLUX's last norm has shift and scale in the other order."""
    layers = {"single_transformer_blocks.0.proj_mlp": (4, 4), "norm_out.linear": (4, 4)}
    tensors = factors({"lora_unet_final_layer_adaLN_modulation_1": (4, 4)}, alpha=None)
    save_file(tensors, tmp_path / "a.safetensors")
    inputs = slot_values(LoraSlots(4, layers, tuple(layers), {}), [lora_of(tmp_path / "a.safetensors", 1.0)])
    up, down = (
        tensors[f"lora_unet_final_layer_adaLN_modulation_1.lora_{end}.weight"].numpy() for end in ("up", "down")
    )
    update = (inputs["lora_down.norm_out.linear"] @ inputs["lora_up.norm_out.linear"]).T
    np.testing.assert_allclose(update, (up @ down)[[2, 3, 0, 1]], atol=1e-6)
