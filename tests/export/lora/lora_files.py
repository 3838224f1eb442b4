"""LoRA files with random updates, in the names of each trainer."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

RANK = 2
ALPHA = 3.0  # unlike the rank, so that a forgotten factor shows
Parts = Mapping[str, Tensor]  # "down", "up"


class Wrapped(nn.Module):
    """A network inside another module, as in fewstep and in users' code."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.unchanged = nn.Linear(2, 2)
        self.network = network


def updates(module: nn.Module, names: Iterable[str], seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Random factors for each layer: of a convolution down [r, in, *kernel] and up [out, r, 1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    layers = dict(module.named_modules())
    made = {}
    for name in names:
        weight = layers[name].weight
        ones = [1] * (weight.ndim - 2)
        made[name] = {
            "down": 0.3 * torch.randn(RANK, *weight.shape[1:], generator=generator),
            "up": 0.3 * torch.randn(weight.shape[0], RANK, *ones, generator=generator),
        }
    return made


def weights_with_lora(module: nn.Module, made: Mapping[str, Parts], scale: float) -> dict[str, Tensor]:
    """The module's weights after W += scale * up @ down, by name of the parameter."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for name, parts in made.items():
        update = torch.einsum("or,ri->oi", parts["up"].flatten(1), parts["down"].flatten(1))
        state[f"{name}.weight"] += scale * update.reshape(state[f"{name}.weight"].shape)
    return state


def peft(name: str) -> dict[str, str]:
    return {"down": f"base_model.model.{name}.lora_A.weight", "up": f"base_model.model.{name}.lora_B.weight"}


def diffusers(name: str) -> dict[str, str]:
    return {"down": f"unet.{name}.lora_A.weight", "up": f"unet.{name}.lora_B.weight", "alpha": f"unet.{name}.alpha"}


def plain(name: str) -> dict[str, str]:
    return {"down": f"{name}.lora_A.default.weight", "up": f"{name}.lora_B.default.weight"}


def dotted_names(name: str) -> dict[str, str]:
    return {"down": f"unet.{name}.lora.down.weight", "up": f"unet.{name}.lora.up.weight"}


def processors(name: str) -> dict[str, str]:
    """The names of attention processors, as early versions of diffusers wrote them."""
    attention, _, layer = name.replace(".to_out.0", ".to_out").rpartition(".")
    stem = f"unet.{attention}.processor.{layer}_lora"
    return {"down": f"{stem}.down.weight", "up": f"{stem}.up.weight"}


def kohya(name: str) -> dict[str, str]:
    stem = f"lora_unet_{name.replace('.', '_')}"
    return {"down": f"{stem}.lora_down.weight", "up": f"{stem}.lora_up.weight", "alpha": f"{stem}.alpha"}


def write(path: Path, made: Mapping[str, Parts], key: Callable[[str], dict[str, str]] = kohya) -> Path:
    """Write a file of these updates. If the format has an alpha, it is ALPHA."""
    tensors = {}
    for name, parts in made.items():
        keys = key(name)
        tensors |= {keys[part]: tensor.contiguous() for part, tensor in parts.items() if part in keys}
        if "alpha" in keys:
            tensors[keys["alpha"]] = torch.tensor(ALPHA)
    save_file(tensors, path)
    return path


def assert_same(module: nn.Module, state: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
    """The module's weights are these."""
    found = module.state_dict()
    assert set(found) == set(state)
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
