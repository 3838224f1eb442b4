"""LoRA files of every form, merged into tiny networks: the weights follow from the definition, or from peft."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewstep.export.lora.merge import merge
from fewstep.runtime.lora.aliases import Place
from fewstep.runtime.lora.file import read_lora
from fewstep.runtime.lora.keys import Component, NamedLayers, layers_of
from tests.export.lora import lora_files
from tests.export.lora.lora_files import ALPHA, RANK, Wrapped, assert_same, updates, weights_with_lora, write
from tests.families import tiny
from tests.tiny_pipelines import flux_transformer

diffusers = pytest.importorskip("diffusers")

SMALL: dict[str, Any] = {"sample_size": 8, "norm_num_groups": 4, "attention_head_dim": 4, "cross_attention_dim": 12}
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = (  # one of each kind: in attention, linear, 3x3, 1x1, outside the blocks
    f"{ATTENTION}.attn1.to_q",
    f"{ATTENTION}.attn2.to_out.0",
    f"{ATTENTION}.ff.net.0.proj",
    "down_blocks.0.attentions.0.proj_in",
    "mid_block.resnets.1.conv2",
    "up_blocks.0.resnets.0.conv_shortcut",
    "up_blocks.0.upsamplers.0.conv",
    "down_blocks.0.resnets.0.time_emb_proj",
    "time_embedding.linear_1",
    "conv_in",
)


@pytest.fixture(scope="module")
def base() -> nn.Module:
    """A network for LoRA files. Tests must not change it."""
    torch.manual_seed(0)
    return tiny.stable_diffusion_unet().requires_grad_(False)


def merge_files(base: nn.Module, *files: str | Path) -> nn.Module:
    """Return a copy of the base with these files merged, each with a strength after its name."""
    module = copy.deepcopy(base)
    for file in files:
        merge(module, read_lora(str(file)))
    return module


@pytest.mark.parametrize(
    ("key", "scale", "layers"),
    [
        (lora_files.diffusers, ALPHA / RANK, LAYERS),
        (lora_files.kohya, ALPHA / RANK, LAYERS),
        (lora_files.peft, 1.0, LAYERS),
        (lora_files.plain, 1.0, LAYERS),
        (lora_files.dotted_names, 1.0, LAYERS),
        (lora_files.processors, 1.0, LAYERS[:2]),
    ],
)
@pytest.mark.parametrize("strength", [1.0, -0.5, 0.0])
def test_weights_change_by_strength_alpha_over_rank_up_down(
    base: nn.Module, tmp_path: Path, key: Callable[[str], dict[str, str]], scale: float, layers: Any, strength: float
) -> None:
    """A strength of 0 changes no bit. The network may lie in another module."""
    made = updates(base, layers)
    file = write(tmp_path / "a.safetensors", made, key)
    module = copy.deepcopy(base)
    merge(Wrapped(module), read_lora(f"{file}:{strength}"))
    assert_same(module, weights_with_lora(base, made, strength * scale), 1e-6 if strength else 0)


def test_float16_files_are_merged_in_float32(base: nn.Module, tmp_path: Path) -> None:
    made = {name: {p: t.half() for p, t in parts.items()} for name, parts in updates(base, LAYERS).items()}
    module = merge_files(base, write(tmp_path / "a.safetensors", made, lora_files.plain))
    assert_same(
        module, weights_with_lora(base, {n: {p: t.float() for p, t in parts.items()} for n, parts in made.items()}, 1)
    )


def test_a_convolution_may_have_a_core_between_two_of_1x1(base: nn.Module, tmp_path: Path) -> None:
    name = "mid_block.resnets.0.conv1"
    out, given = dict(base.named_modules())[name].weight.shape[:2]
    down, mid, up = torch.randn(2, given, 1, 1), torch.randn(3, 2, 3, 3), torch.randn(out, 3, 1, 1)
    stem = f"lora_unet_{name.replace('.', '_')}"
    parts = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
    save_file({f"{stem}.{part}": tensor for part, tensor in parts.items()}, tmp_path / "a.safetensors")
    module = merge_files(base, tmp_path / "a.safetensors")
    x = torch.randn(1, given, 5, 5)
    functional = nn.functional
    expected = functional.conv2d(functional.conv2d(functional.conv2d(x, down), mid, padding=1), up)
    change = dict(module.named_modules())[name](x) - dict(base.named_modules())[name](x)
    torch.testing.assert_close(change, expected, atol=1e-4, rtol=1e-5)


def test_a_module_of_yours_may_have_down_blocks_without_resnets(tmp_path: Path) -> None:
    module = nn.ModuleDict({"down_blocks": nn.ModuleList([nn.ModuleDict({"conv": nn.Linear(3, 4)})])})
    module.requires_grad_(False)
    made = updates(module, ["down_blocks.0.conv"])
    merged = merge_files(module, write(tmp_path / "lora.safetensors", made, lora_files.plain))
    assert_same(merged, weights_with_lora(module, made, 1.0))


def test_layers_that_share_a_weight_change_separately(tmp_path: Path) -> None:
    """As in peft, whose update is a separate part of each layer."""
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[2].weight = module[0].weight
    weight, made = module[0].weight.detach().clone(), updates(module, ("0", "1"))
    merge(module, read_lora(str(write(tmp_path / "tied.safetensors", made, lora_files.plain))))
    for layer, changed in made.items():
        expected = weight + changed["up"] @ changed["down"]
        torch.testing.assert_close(module[int(layer)].weight.detach(), expected)
    assert torch.equal(module[2].weight, weight)


def test_two_files_add_up(base: nn.Module, tmp_path: Path) -> None:
    first, second = updates(base, LAYERS, 1), updates(base, LAYERS[:3], 2)
    files = (write(tmp_path / f"{number}.safetensors", made) for number, made in enumerate((first, second)))
    module = merge_files(base, *(f"{file}:0.5" for file in files))
    halfway = copy.deepcopy(base)
    halfway.load_state_dict(weights_with_lora(base, first, 0.5 * ALPHA / RANK))
    assert_same(module, weights_with_lora(halfway, second, 0.5 * ALPHA / RANK))


# Names


SDXL = {  # as the file has it -> as diffusers does
    "input_blocks_0_0": "conv_in",
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_0_emb_layers_1": "down_blocks.1.resnets.0.time_emb_proj",
    "input_blocks_4_1_transformer_blocks_1_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
    "input_blocks_8_1_proj_in": "down_blocks.2.attentions.1.proj_in",
    "middle_block_0_in_layers_2": "mid_block.resnets.0.conv1",
    "middle_block_1_transformer_blocks_0_ff_net_2": "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
    "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
    "output_blocks_0_1_proj_out": "up_blocks.0.attentions.0.proj_out",
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_5_1_transformer_blocks_0_attn2_to_out_0": (
        "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0"
    ),
    "output_blocks_5_2_conv": "up_blocks.1.upsamplers.0.conv",
    "output_blocks_8_0_skip_connection": "up_blocks.2.resnets.2.conv_shortcut",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "out_2": "conv_out",
}


@pytest.fixture(scope="module")
def sdxl() -> nn.Module:
    """The UNet of Stable Diffusion XL with few channels and no weights."""
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(
            **SMALL,
            block_out_channels=(4, 8, 8),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=58,
        )


def names(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(getattr(layer, "weight", None), nn.Parameter)]


@pytest.mark.parametrize("name", SDXL)
def test_sdxl_in_the_names_of_its_first_code(name: str, sdxl: nn.Module) -> None:
    layers = NamedLayers(names(sdxl))
    for form in (f"lora_unet_{name}", f"diffusion_model.{name}", SDXL[name], f"unet.{SDXL[name]}"):
        assert layers.find(form) == Place((SDXL[name],))


def test_stable_diffusion_1_has_its_deepest_upsampler_where_no_attention_is() -> None:
    """Blocks without attention count one module less."""
    given = ["down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1", "up_blocks.0.upsamplers.0.conv"]
    assert NamedLayers(given).find("lora_unet_output_blocks_2_1_conv") == Place(("up_blocks.0.upsamplers.0.conv",))


def test_two_layers_of_one_flat_name_are_distinguished_by_their_own() -> None:
    layers = NamedLayers(["a.b_c", "a_b.c"])
    assert [layers.find(name) for name in ("a.b_c", "a_b.c", "a_b_c")] == [Place(("a.b_c",)), Place(("a_b.c",)), None]


def test_the_network_is_found_in_whatever_is_around_it(sdxl: nn.Module) -> None:
    inside = [f"wrapper.network.{name}" for name in names(sdxl)] + ["other.down_blocks.0.conv"]
    found = layers_of(inside, ["lora_unet_input_blocks_0_0", "unet.conv_out"])
    assert found.find("lora_unet_input_blocks_0_0") == Place(("wrapper.network.conv_in",))


# Against the code of others


def test_weights_are_those_of_diffusers(base: nn.Module, tmp_path: Path) -> None:
    """A kohya file through its conversion, and then peft's merging."""
    pytest.importorskip("peft")
    made = updates(base, [name for name in LAYERS if name != "conv_in"])
    file = write(tmp_path / "a.safetensors", made)
    loader = diffusers.StableDiffusionPipeline
    theirs, ours = copy.deepcopy(base), copy.deepcopy(base)
    loader.load_lora_into_unet(*loader.lora_state_dict(str(file), unet_config=base.config), theirs)  # type: ignore[attr-defined]
    theirs.fuse_lora(0.7)
    theirs.unload_lora()
    merge(ours, read_lora(f"{file}:0.7"))
    assert_same(ours, theirs.state_dict())


def test_a_fused_layer_of_flux_is_that_of_diffusers(tmp_path: Path) -> None:
    """The original code has one matrix for q, k, v and the MLP, diffusers has four."""
    pytest.importorskip("peft")
    torch.manual_seed(0)
    base = flux_transformer(4, 12, 10).requires_grad_(False)
    sizes = {  # layer: outputs, inputs
        "double_blocks_0_img_attn_qkv": (48, 16),
        "double_blocks_0_txt_mlp_2": (16, 64),
        "single_blocks_0_modulation_lin": (48, 16),
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, (outputs, inputs) in sizes.items():
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(RANK, inputs)
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(outputs, RANK)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, tmp_path / "a.safetensors")
    loader = diffusers.FluxPipeline
    theirs, ours = copy.deepcopy(base), copy.deepcopy(base)
    state = loader.lora_state_dict(str(tmp_path / "a.safetensors"))
    loader.load_lora_into_transformer(state, None, theirs)
    theirs.fuse_lora()
    theirs.unload_lora()
    merge(ours, read_lora(str(tmp_path / "a.safetensors")))
    assert_same(ours, theirs.state_dict(), 1e-5)
    changed_names = {
        name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])
    }
    assert len(changed_names) == 3 + 1 + 1


def test_a_fused_layer_goes_to_its_parts_in_order(tmp_path: Path) -> None:
    """q, k, v and the MLP of FLUX's single blocks are rows of one matrix, with different numbers of rows."""
    attention = nn.ModuleDict({part: nn.Linear(3, 4) for part in ("to_q", "to_k", "to_v")})
    block = nn.ModuleDict({"attn": attention, "proj_mlp": nn.Linear(3, 6)})
    module = nn.ModuleDict({"single_transformer_blocks": nn.ModuleList([block])})
    before = copy.deepcopy(module)
    up, down = torch.randn(18, 1), torch.randn(1, 3)
    tensors = {"diffusion_model.single_blocks.0.linear1.lora_A.weight": down}
    save_file(tensors | {"diffusion_model.single_blocks.0.linear1.lora_B.weight": up}, tmp_path / "a.safetensors")
    merge(module, read_lora(str(tmp_path / "a.safetensors")))
    found = torch.cat([p - q for p, q in zip(module.parameters(), before.parameters(), strict=True) if p.ndim > 1])
    torch.testing.assert_close(found, up @ down, atol=1e-6, rtol=0)


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.blocks = nn.ModuleList([nn.Linear(8, 6, bias=False), nn.Linear(6, 6)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[1](self.blocks[0](self.conv(x).mean((2, 3))))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("LoraConfig", {"r": 2, "lora_alpha": 5}),
        ("LoraConfig", {"r": 2, "lora_alpha": 5, "use_rslora": True}),
        ("LoraConfig", {"r": 2, "lora_alpha": 5, "rank_pattern": {"blocks.0": 3}, "alpha_pattern": {"conv": 7}}),
        ("LoraConfig", {"r": 2, "lora_alpha": 5, "alpha_pattern": {r"^blocks\.\d": 3, "(conv|fc)": 7}}),
        ("LoraConfig", {"r": 2, "lora_alpha": 5, "alpha_pattern": {"^0": 3, ".*s.[^0]$": 7, "c.*v": 4}}),
        ("LoraConfig", {"r": 2, "lora_alpha": 5, "use_dora": True}),
        ("LoHaConfig", {"r": 2, "alpha": 5}),
        ("LoHaConfig", {"r": 2, "alpha": 5, "use_effective_conv2d": True}),
        ("LoKrConfig", {"r": 2, "alpha": 5}),
        ("LoKrConfig", {"r": 2, "alpha": 5, "use_effective_conv2d": True, "decompose_both": True}),
        ("LoKrConfig", {"r": 9, "alpha": 5, "rank_pattern": {"blocks.0": 3}}),
        ("LoKrConfig", {"r": 9, "alpha": 5, "rank_pattern": {"^blocks.[01]": 3}, "alpha_pattern": {".*0": 2}}),
    ],
    ids=[
        "lora",
        "stabilized",
        "patterns",
        "anchors",
        "ends",
        "dora",
        "loha",
        "loha-core",
        "lokr",
        "lokr-core",
        "lokr-ranks",
        "lokr-anchors",
    ],
)
def test_a_folder_of_peft_is_merged_as_peft_does(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = Layered().requires_grad_(False)
    ours = copy.deepcopy(base)
    model = peft.get_peft_model(base, getattr(peft, kind)(target_modules=["conv", "blocks.0", "blocks.1"], **fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter) if "magnitude" not in name else 0.1
    model.save_pretrained(tmp_path)
    before = copy.deepcopy(ours.state_dict())
    theirs = model.merge_and_unload().state_dict()
    merge(ours, read_lora(str(tmp_path)))
    assert_same(ours, theirs)
    assert all(
        (before[f"{name}.weight"] - theirs[f"{name}.weight"]).abs().max() > 1e-3 for name in ("conv", "blocks.0")
    )


def test_the_strength_of_a_dora_of_peft_multiplies_its_factors(tmp_path: Path) -> None:
    """m (W + s up down) / |W + s up down|, as peft scales an adapter."""
    module = nn.Sequential(nn.Linear(3, 5))
    weight, up, down, magnitude = module[0].weight.detach().clone(), torch.randn(5, 1), torch.randn(1, 3), torch.rand(5)
    parts = {"lora_A.weight": down, "lora_B.weight": up, "lora_magnitude_vector": magnitude}
    save_file({f"0.{part}": tensor for part, tensor in parts.items()}, tmp_path / "a.safetensors")
    merge(module, read_lora(f"{tmp_path / 'a.safetensors'}:0.3"))
    moved = weight + 0.3 * up @ down
    torch.testing.assert_close(module[0].weight.detach(), magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True))


def test_a_dora_of_peft_at_strength_0_rescales_as_peft_does(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 5))
    weight, magnitude = module[0].weight.detach().clone(), 0.5 + torch.rand(5)
    parts = {
        "lora_A.weight": torch.ones(1, 3),
        "lora_B.weight": torch.ones(5, 1),
        "lora_magnitude_vector": magnitude,
    }
    save_file({f"0.{part}": tensor for part, tensor in parts.items()}, tmp_path / "a.safetensors")
    merge(module, read_lora(f"{tmp_path / 'a.safetensors'}:0"))
    expected = magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(module[0].weight.detach(), expected)


def test_magnitudes_may_be_those_of_the_inputs(tmp_path: Path) -> None:
    """LyCORIS stores them as [1, in]: each input's weights then have the norm in the file."""
    module = nn.Sequential(nn.Linear(3, 5))
    magnitude = torch.tensor([[1.0, 2.0, 3.0]])
    parts = {"lora_down.weight": torch.randn(1, 3), "lora_up.weight": torch.randn(5, 1), "dora_scale": magnitude}
    save_file({f"lora_unet_0.{part}": tensor for part, tensor in parts.items()}, tmp_path / "a.safetensors")
    merge(module, read_lora(str(tmp_path / "a.safetensors")))
    torch.testing.assert_close(module[0].weight.norm(dim=0), magnitude[0])


def test_whole_differences_of_weights_and_biases_are_added(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 5))
    weight, bias = module[0].weight.clone(), module[0].bias.clone()
    save_file({"lora_unet_0.diff": torch.ones(5, 3), "lora_unet_0.diff_b": torch.ones(5)}, tmp_path / "a.safetensors")
    merge(module, read_lora(f"{tmp_path / 'a.safetensors'}:0.25"))
    torch.testing.assert_close(module[0].weight, weight + 0.25)
    torch.testing.assert_close(module[0].bias, bias + 0.25)


def test_metadata_of_diffusers_says_what_alpha_is(base: nn.Module, tmp_path: Path) -> None:
    made = updates(base, LAYERS[:2])
    tensors = {
        f"unet.{n}.lora_{k}.weight": p[part] for n, p in made.items() for k, part in (("A", "down"), ("B", "up"))
    }
    fields = {"unet.lora_alpha": 3, "unet.r": RANK, "text_encoder.lora_alpha": 99}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(fields)})
    assert_same(merge_files(base, tmp_path / "a.safetensors"), weights_with_lora(base, made, 3 / RANK))


def test_each_network_has_its_own_alpha_in_the_metadata_of_diffusers(tmp_path: Path) -> None:
    tensors = {
        f"{network}.0.lora_{part}.weight": torch.ones(shape)
        for network in ("unet", "text_encoder", "text_encoder_2", "text_encoder_3")
        for part, shape in (("A", (2, 3)), ("B", (5, 2)))
    }
    fields = {"unet.lora_alpha": 3, "text_encoder.lora_alpha": 8, "text_encoder_2.alpha_pattern": {"0": 5}}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(fields)})
    lora = read_lora(str(tmp_path / "a.safetensors"))
    changes = {}
    for component in get_args(Component):
        module = nn.Sequential(nn.Linear(3, 5))
        before = module[0].weight.detach().clone()
        merge(module, lora, component)
        changes[component] = round(float((module[0].weight.detach() - before).mean()), 4)
    assert changes == {"denoiser": 3.0, "text_encoder": 8.0, "text_encoder_2": 5.0, "text_encoder_3": 2.0}
