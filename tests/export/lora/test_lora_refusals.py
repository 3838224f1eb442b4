"""LoRA files that do not fit or cannot be read give one line, and change nothing."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewstep.export.lora.merge import merge, refuse_added_doras
from fewstep.plans.errors import UserError
from fewstep.runtime.lora.file import read_lora
from tests.export.lora.lora_files import Wrapped, assert_same
from tests.refusals import refuses

WHOLE = {"0.lora_A.weight": (1, 2, 3, 3), "0.lora_B.weight": (4, 1, 1, 1)}  # an update of the first layer below


@pytest.fixture
def module() -> nn.Module:
    return Wrapped(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"unet.0.lora_A.weight": (1, 2, 3, 3)}, "a.safetensors: .* layer 'unet.0' are not one complete update: down"),
        ({"unet.0.weight": (4, 2, 3, 3)}, "contains 'unet.0.weight', which is not part of a LoRA; fewstep reads LoRA"),
        ({"0.oft_blocks": (4, 2)}, "contains '0.oft_blocks', which is not part of a LoRA"),
        ({}, "a.safetensors is empty"),
        (WHOLE | {"0.diff": (4, 2, 3, 3)}, "layer '0' are not one complete update: diff, down, up; copy it again"),
        (WHOLE | {"0.lora_down.weight": (1, 2, 3, 3)}, "contains '0.lora_down.weight', which is not part of a LoRA"),
        (WHOLE | {"0.alpha": (2,)}, "the alpha of layer '0' has 2 numbers, not 1; copy it again"),
        ({"0.diff_b": (3,)}, r"the file has diff_b \[3\]: the bias update does not fit the layer's bias; give a LoRA"),
        ({"0.diff": ()}, r"the file has diff \[\]: these do not fit each other; give a LoRA"),
        ({"0.lora_A.weight": (2,), "0.lora_B.weight": (4,)}, r"down \[2\], up \[4\]: these do not fit each other"),
        (
            {"lora_unet_0.lora_down.weight": (1, 2, 3, 3), "lora_unet_0.lora_up.weight": (5, 1, 1, 1)},
            r"'lora_unet_0' has a weight of \[4, 2, 3, 3\], but .*: its update is \[5, 2, 3, 3\]; give a LoRA that",
        ),
        (
            {"lora_unet_0.lora_down.weight": (1, 2, 3, 3), "lora_unet_0.lora_up.weight": (4, 2, 1, 1)},
            r"but the file has down \[1, 2, 3, 3\], up \[4, 2, 1, 1\]: these do not fit each other; give a LoRA",
        ),
        (
            {"0.diff": (4, 3, 3, 2)},
            r"has a weight of \[4, 2, 3, 3\], .*: its update is \[4, 3, 3, 2\]; give a LoRA that",
        ),
        (
            {"0.lora_A.weight": (1, 2, 9), "0.lora_B.weight": (4, 1, 1)},
            r"has a weight of \[4, 2, 3, 3\], .*: its update is \[4, 2, 9\]; give a LoRA that",
        ),
        (
            {f"x.{n}.lora_{k}.weight": (1, 1) for n in range(5) for k in "AB"} | WHOLE,
            r"Wrapped lacks 5 of the layers that the file changes \(6\): 'x.0', 'x.1', 'x.2' and 2 more",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_and_changes_nothing(
    module: nn.Module, tmp_path: Path, tensors: dict[str, tuple[int, ...]], says: str
) -> None:
    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, tmp_path / "a.safetensors")
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UserError, match=says):
        merge(module, read_lora(str(tmp_path / "a.safetensors")))
    assert_same(module, before, 0)


def test_weights_that_float32_cannot_hold_are_reported(module: nn.Module, tmp_path: Path) -> None:
    save_file({key: torch.full(shape, 1e30) for key, shape in WHOLE.items()}, tmp_path / "a.safetensors")
    with refuses(("a.safetensors", "'0'"), "check its alpha"):
        merge(module, read_lora(str(tmp_path / "a.safetensors")))


@pytest.mark.parametrize(
    ("prepare", "text", "says"),
    [
        (lambda folder: None, "absent.safetensors", "there is no file .*absent.safetensors; check the path"),
        (
            lambda folder: (folder / "a.pt").touch(),
            "a.pt",
            "a.pt is not a safetensors file, and loading a pickle may run",
        ),
        (
            lambda folder: (folder / "a.safetensors").write_bytes(b"x" * 99),
            "a.safetensors",
            ".safetensors cannot be read",
        ),
        (lambda folder: None, "", "contains no safetensors file"),
        (lambda folder: [(folder / f"{n}.safetensors").touch() for n in "ab"], "", "contains 'a.safetensors', 'b.safe"),
        (lambda folder: nan(folder), "a.safetensors", "contains NaN or infinity in 'unet.0.lora_A.weight'"),
        (lambda folder: nan(folder), "a.safetensors:nan", "a.safetensors:nan has no finite strength"),
        (lambda folder: nan(folder), "a.safetensors:abc", "a.safetensors:abc: 'abc' is not a strength; give a number"),
        (lambda folder: nan(folder), "a.safetensors:", "a.safetensors:: '' is not a strength; give a number"),
        (lambda folder: config(folder, "{"), "", "the configuration of adapter_model.safetensors is damaged"),
        (lambda folder: config(folder, "[" * 100_000), "", "the configuration of adapter_model.safetensors is damaged"),
        (lambda folder: config(folder, '{"lora_alpha": "8"}'), "", r"is damaged \(alpha is '8'\); copy it again"),
        (lambda folder: config(folder, '{"lora_alpha": NaN}'), "", r"is damaged \(alpha is nan\)"),
        (lambda folder: config(folder, '{"lora_alpha": 1e300}'), "", r"is damaged \(alpha is 1e\+300\)"),
        (lambda folder: config(folder, '{"alpha_pattern": {"(": 1}}'), "", r"is damaged \(alpha_pattern has '\('"),
        (
            lambda folder: config(folder, PATTERN),
            "",
            "a regular expression that may take too long to match; name the la",
        ),
        (lambda folder: many(folder), "a.safetensors", "its header has .* bytes, more than the limit of 4194304"),
        (
            lambda folder: config(folder, '{"init_lora_weights": "pissa_niter_4"}'),
            "",
            "adapter_model.safetensors fits the weights that the initialization 'pissa_niter_4' changed; write it with",
        ),
        (
            lambda folder: config(folder, '{"alora_invocation_tokens": [1]}'),
            "",
            "was trained with alora_invocation_tokens, which is more than an update of weights; fewstep reads LoRA",
        ),
        (
            lambda folder: config(folder, '{"peft_type": "LOKR", "rank_pattern": {"(?=0).": 2}}'),
            "",
            "its rank_pattern has .*, a regular expression that may take too long to match; name the layers in rank_pa",
        ),
        (
            lambda folder: kronecker(folder),
            "",
            "'.*0' has peft's LoKr of a one-dimensional convolution, .*; merge it with peft's",
        ),
        (lambda folder: config(folder, '{"peft_type": "OFT"}'), "", "adapter_model.safetensors has the type OFT"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, prepare: Callable[[Path], object], text: str, says: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(UserError, match=says):
        read_lora(f"{tmp_path}/{text}" if text else str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"fan_in_fan_out": True}, "was trained on transposed weights (fan_in_fan_out)"),
        ({"init_lora_weights": "olora"}, "fits the weights that the initialization 'olora' changed"),
        ({"init_lora_weights": "pissa"}, "fits the weights that the initialization 'pissa' changed"),
        ({"init_lora_weights": "corda"}, "fits the weights that the initialization 'corda' changed"),
        ({"bias": "all"}, "was trained with bias 'all', which is more than"),
        ({"bias": "lora_only"}, "was trained with bias 'lora_only', which is more than"),
        ({"lora_bias": True}, "was trained with lora_bias, which is more than"),
        ({"modules_to_save": ["head"]}, "was trained with modules_to_save, which is more than"),
        ({"trainable_token_indices": [1]}, "was trained with trainable_token_indices, which is more than"),
        ({"target_parameters": ["experts"]}, "was trained with target_parameters, which is more than"),
        ({"layer_replication": [[0, 1]]}, "was trained with layer_replication, which is more than"),
        ({"arrow_config": {"top_k": 3}}, "was trained with arrow_config, which is more than"),
        ({"megatron_config": {"a": 1}}, "was trained with megatron_config, which is more than"),
        ({"ensure_weight_tying": True}, "was trained with ensure_weight_tying, which is more than"),
        ({"use_qalora": True}, "was trained with use_qalora, which is more than"),
        ({"kasa_config": {"beta": 1}}, "was trained with kasa_config, which is more than"),
        ({"use_dora": True}, "has use_dora, but no magnitudes of layer 'base_model.model.0'"),
        ({"target_modules": ["1"]}, "changes layer 'base_model.model.0', which its target_modules leaves out"),
        ({"exclude_modules": ["0"]}, "changes layer 'base_model.model.0', which its exclude_modules leaves out"),
    ],
)
def test_a_field_of_peft_that_changes_the_result_is_applied_or_refused(
    tmp_path: Path, fields: dict[str, object], says: str
) -> None:
    config(tmp_path, json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, **fields}))
    with refuses(says, ()):
        read_lora(str(tmp_path))


@pytest.mark.parametrize("numbers", [[1], 1])
def test_a_layer_that_layers_to_transform_leaves_out_is_named(tmp_path: Path, numbers: object) -> None:
    config(tmp_path, json.dumps({"peft_type": "LORA", "target_modules": ["out"], "layers_to_transform": numbers}))
    tensors = {f"base_model.model.net.blocks.0.out.lora_{part}.weight": torch.ones(1, 1) for part in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with refuses("changes layer 'base_model.model.net.blocks.0.out', which its layers_to_transform leaves out", ()):
        read_lora(str(tmp_path))


def test_a_whole_name_in_target_modules_is_not_restricted_by_layers_to_transform(tmp_path: Path) -> None:
    config(tmp_path, json.dumps({"peft_type": "LORA", "target_modules": ["0"], "layers_to_transform": [1]}))
    assert read_lora(str(tmp_path)).layers("denoiser")


def test_the_fields_of_a_new_configuration_of_peft_are_accepted(tmp_path: Path) -> None:
    """Defaults of a later release may not be empty."""
    peft = pytest.importorskip("peft")
    fields = peft.LoraConfig(r=1, target_modules=["0"], layers_to_transform=[0]).to_dict()
    config(tmp_path, json.dumps(fields, default=sorted))
    assert read_lora(str(tmp_path)).scale("denoiser", "0").alpha == 8.0


def test_magnitudes_that_a_configuration_lacks_are_named(tmp_path: Path) -> None:
    config(tmp_path, '{"use_dora": false}')
    tensors = {f"base_model.model.0.lora_{part}.weight": torch.ones(1, 1) for part in "AB"}
    magnitude = {"base_model.model.0.lora_magnitude_vector": torch.ones(1)}
    save_file(tensors | magnitude, tmp_path / "adapter_model.safetensors")
    with refuses("has magnitudes of layer 'base_model.model.0', but its configuration does not have use_dora", ()):
        read_lora(str(tmp_path))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_dora_and_another_file_on_one_layer_are_refused(tmp_path: Path, order: tuple[int, int]) -> None:
    plain = {"unet.0.lora_A.weight": torch.ones(1, 3), "unet.0.lora_B.weight": torch.ones(5, 1)}
    save_file(plain, tmp_path / "plain.safetensors")
    save_file(plain | {"unet.0.lora_magnitude_vector": torch.ones(5)}, tmp_path / "dora.safetensors")
    loras = [read_lora(str(tmp_path / f"{name}.safetensors")) for name in ("plain", "dora")]
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))
    refuse_added_doras(module, [loras[0]] * 2)
    with refuses("both change layer '0', and one of them is a DoRA", "fuse_lora"):
        refuse_added_doras(module, [loras[place] for place in order])


PATTERN = '{"alpha_pattern": {"(((((((((((.*)*)*)*)*)*)*)*)*)*)*)*!": 1.0}}'  # which matches for ever


def many(folder: Path) -> None:
    header = json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(80_000)})
    (folder / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())


def nan(folder: Path) -> None:
    bad = torch.full((1, 2, 3, 3), float("nan"))
    save_file({"unet.0.lora_A.weight": bad, "unet.0.lora_B.weight": torch.ones(4, 1, 1, 1)}, folder / "a.safetensors")


def config(folder: Path, text: str) -> None:
    tensors = {
        "base_model.model.0.lora_A.weight": torch.ones(1, 2),
        "base_model.model.0.lora_B.weight": torch.ones(2, 1),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(text)


def kronecker(folder: Path) -> None:
    tensors = {"base_model.model.0.lokr_w1": torch.ones(2, 2), "base_model.model.0.lokr_w2": torch.ones(2, 2, 3)}
    save_file(tensors, folder / "adapter_model.safetensors")
