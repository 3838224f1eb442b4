"""A policy that was saved as an adapter of peft is that adapter merged into the base's weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fewstep.export.load_source import load_source
from fewstep.robots.lerobot.adapter import merge_adapter
from fewstep.robots.lerobot.kind import LEROBOT
from tests.refusals import refuses
from tests.robots.lerobot.policies import config, write

TARGETS = ["q_proj", "action_in_proj"]
RANK, ALPHA = 4, 8


def write_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Write a policy with an adapter next to its weights, and return the weights of the base."""
    write("smolvla", folder)
    weights = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(0)
    adapter = {}
    for name in layers(weights):
        (rows, columns), start = weights[f"{name}.weight"].shape, f"base_model.model.{name}"
        adapter[f"{start}.lora_A.weight"] = 0.3 * torch.randn(RANK, columns, generator=random)
        adapter[f"{start}.lora_B.weight"] = 0.3 * torch.randn(rows, RANK, generator=random)
    save_file(adapter, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "lerobot/smolvla_base"}
    (folder / "adapter_config.json").write_text(json.dumps({**fields, "target_modules": TARGETS}))
    config(use_peft=True)(folder)
    return weights


def layers(weights: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the layers that the adapter changes."""
    names = (name.removesuffix(".weight") for name in weights if name.endswith(".weight"))
    return [name for name in names if name.endswith(tuple(TARGETS))]


def test_the_merged_weights_are_those_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    weights = write_adapter(tmp_path)
    changed = layers(weights)
    model = nn.Module()
    for name in changed:
        *parents, own = name.split(".")
        parent = model
        for module_name in parents:
            parent.add_module(module_name, getattr(parent, module_name, nn.Module()))
            parent = parent.get_submodule(module_name)
        rows, columns = weights[f"{name}.weight"].shape
        parent.add_module(own, nn.Linear(columns, rows, bias=False))
    model.load_state_dict({f"{name}.weight": weights[f"{name}.weight"] for name in changed})
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    peft.set_peft_model_state_dict(adapted, load_file(tmp_path / "adapter_model.safetensors"))
    right = adapted.merge_and_unload().state_dict()
    merged = merge_adapter(tmp_path, weights)
    assert len(changed) > 2 and set(merged) == set(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(merged[name], right.get(name, tensor), rtol=0, atol=1e-6)
        assert torch.equal(merged[name], tensor) == (name not in right)


def test_a_folder_with_an_adapter_is_the_merged_policy(tmp_path: Path) -> None:
    adapted, merged = tmp_path / "adapted", tmp_path / "merged"
    weights = write_adapter(adapted)
    write("smolvla", merged)
    save_file(
        {name: each.clone() for name, each in merge_adapter(adapted, weights).items()}, merged / "model.safetensors"
    )
    ours, theirs = (load_source(str(folder)).module.state_dict() for folder in (adapted, merged))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_adapter_without_the_weights_of_its_base_says_where_they_belong(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with refuses(
        ("an adapter without the weights of its base, lerobot/smolvla_base",),
        "give a folder that also has model.safetensors of lerobot/smolvla_base",
    ):
        load_source(str(tmp_path))


def test_a_hub_is_asked_for_the_adapter_and_for_the_weights_of_its_base(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    with_adapter = LEROBOT.weights(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    without = LEROBOT.weights(tmp_path)
    assert "model.safetensors" in with_adapter and "model.safetensors" in without
    assert {*with_adapter} - {*without} == {"adapter_model.safetensors"}


def test_an_adapter_without_its_configuration_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with refuses("adapter_config.json"):
        load_source(str(tmp_path))


def test_an_adapter_that_the_config_does_not_use_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    config(use_peft=False)(tmp_path)
    with refuses(("adapter_model.safetensors", "no use_peft"), "set use_peft to true, or remove the file"):
        load_source(str(tmp_path))


def test_a_config_with_use_peft_needs_the_adapter(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with refuses(("has use_peft, but adapter_model.safetensors is missing",)):
        load_source(str(tmp_path))
