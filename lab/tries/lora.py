"""LoRA files in the names of several trainers, merged at export, against W + strength alpha / rank up down."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from fewstep.export.lora.merge import merge
from fewstep.runtime.lora.file import lora_of
from lab.tries.attempt import Attempt, check_close
from lab.tries.odd_networks import build

LAYERS = {"conv": (8, 8, 3, 3), "time": (8, 2), "words": (8, 3), "qkv": (24, 8), "style": (8, 8), "last": (2, 8, 1, 1)}
FORMS = {
    "peft": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight", None),
    "peft named": ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight", None),
    "diffusers": ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight", "unet.{}.alpha"),
    "transformer": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight", "transformer.{}.alpha"),
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight", "lora_unet_{}.alpha"),
    "bare": ("{}.lora_down.weight", "{}.lora_up.weight", "{}.alpha"),
    "comfy": ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight", "diffusion_model.{}.alpha"),
}


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    folder = Path(tempfile.mkdtemp())
    for index in range(number):
        form = str(random.choice(list(FORMS)))
        layers = [str(v) for v in random.choice(list(LAYERS), int(random.integers(1, 5)), replace=False)]
        rank, alpha = int(random.integers(1, 7)), float(np.round(random.uniform(0.5, 8), 2))
        strength, half = float(np.round(random.uniform(-1.5, 2), 2)), bool(random.random() < 0.3)
        has_alpha, draw, path = (
            bool(random.random() < 0.6),
            int(random.integers(2**31)),
            folder / f"{index}.safetensors",
        )

        def run(
            form=form,
            layers=layers,
            rank=rank,
            alpha=alpha,
            strength=strength,
            half=half,
            has_alpha=has_alpha,
            draw=draw,
            path=path,
        ) -> None:  # type: ignore[no-untyped-def]
            own, (down, up, scale) = np.random.default_rng(draw), FORMS[form]
            kind = np.float16 if half else np.float32
            tensors, right = {}, {}
            (module, _), (changed, _) = build(("norm_layers",), 8, 3), build(("norm_layers",), 8, 3)
            for layer in layers:
                out, inside, *kernel = LAYERS[layer]
                a = own.standard_normal((rank, inside, *kernel)).astype(kind)
                b = own.standard_normal((out, rank, *[1] * len(kernel))).astype(kind)
                tensors |= {down.format(layer): a, up.format(layer): b}
                by = 1.0
                if has_alpha and scale is not None:
                    tensors[scale.format(layer)] = np.array(alpha, np.float32)
                    by = alpha / rank
                product = b.astype(np.float64).reshape(out, rank) @ a.astype(np.float64).reshape(rank, -1)
                weight = module.get_submodule(layer).weight.detach().numpy()
                right[layer] = weight + strength * by * product.reshape(weight.shape)
            save_file(tensors, path)
            merge(changed, lora_of(path, strength))
            for name, value in changed.state_dict().items():
                layer, _, kind_of = name.rpartition(".")
                expected = right[layer] if layer in right and kind_of == "weight" else module.state_dict()[name].numpy()
                check_close(value.numpy(), expected, 2e-5, name)
            assert torch.is_tensor(value)

        yield Attempt(f"{form} {layers} rank {rank} alpha {alpha if has_alpha else None} strength {strength}", run)
