"""Merge the adapter of a policy that peft trained into the weights of its base."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.export.sources.model_files import read_json
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.normalisation import RETRAINED

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # files that peft writes
WEIGHTS = "model.safetensors"


def has_adapter(home: Path, uses_adapter: bool) -> bool:
    """Return whether the folder of a policy has an adapter, which is merged into the weights next to it.

    uses_adapter: `use_peft` of the policy's config. Raises UserError if the files contradict it, or the weights of the
    adapter's base are missing.
    """
    has_file = (home / ADAPTER).is_file()
    if not has_file and uses_adapter:
        raise UserError(f"{home / 'config.json'} has use_peft, but {ADAPTER} is missing", RETRAINED)
    if has_file and not uses_adapter:
        what = f"{home} has {ADAPTER}, but its config.json has no use_peft, so that LeRobot would not use it"
        raise UserError(what, "set use_peft to true, or remove the file")
    if not has_file:
        return False
    fields = read_json(home / ADAPTER_CONFIG, RETRAINED)  # without it, the scale of the update is unknown
    if not (home / WEIGHTS).is_file():
        base = fields.get("base_model_name_or_path") or "the policy that it changes"
        what = f"{home} has an adapter without the weights of its base, {base}"
        raise UserError(what, f"give a folder that also has {WEIGHTS} of {base}")
    return True


def merge_adapter(home: Path, weights: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Return the weights with the adapter's update, as peft's `merge_and_unload` does. Its layers have the names of
    LeRobot's weights."""
    from fewstep.export.lora.merge import merge
    from fewstep.runtime.lora.file import lora_of

    module = _make_module(weights)
    merge(module, lora_of(home / ADAPTER, 1.0))
    return {name: parameter.detach() for name, parameter in module.named_parameters(remove_duplicate=False)}


def _make_module(weights: Mapping[str, "Tensor"]) -> "nn.Module":
    """Return a module whose parameters have the names and values of these weights."""
    from torch import nn

    module = nn.Module()
    for name, tensor in weights.items():
        *layers, own = name.split(".")
        parent = module
        for layer in layers:
            if layer not in dict(parent.named_children()):
                parent.add_module(layer, nn.Module())
            parent = parent.get_submodule(layer)
        parent.register_parameter(own, nn.Parameter(tensor, requires_grad=False))
    return module
