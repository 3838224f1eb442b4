"""LoRA files that do not fit or cannot be read give one line, and change nothing."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewstep.export.lora.merge import merge
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
            {f"x.{n}.lora_{k}.weight": (1, 1) for n in range(5) for k in "AB"} | WHOLE,
            "1 of the 6 layers that it changes are in Wrapped, but 'x.0', 'x.1', 'x.2' and 2 more is not",
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
        (lambda folder: config(folder, PATTERN), "", "not the name of a layer"),
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
            lambda folder: config(folder, '{"peft_type": "LOKR", "rank_pattern": {"^0": 2}}'),
            "",
            "rank_pattern has '\\^0', which is not the name of a layer",
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
