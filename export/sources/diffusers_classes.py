"""What the config of a diffusers network says: the shape of x, and the conditions that each class takes.

A function per class, under the name of the class, makes an `Interface` of a config. `tokens` is the length of a text,
as the folder's text encoder has it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition

Config = Mapping[str, Any]
TOKENS = 77  # of a text whose encoder is not in the folder: CLIP's
TIME_IDS = 6  # of SDXL: original size, crop, target size
IMAGE = "image"  # argument of a condition that is put beside x along the channels
ADDED = "added."  # arguments that diffusers takes in a dict of their own
WRITE_IT = "write a function that returns (module, Spec): docs/export.md"


@dataclass(frozen=True)
class Interface:
    """`arguments` are the network's own names for the conditions, in order; see `IMAGE` and `ADDED`."""

    x_shape: tuple[int, ...]
    conditions: tuple[Condition, ...] = ()
    arguments: tuple[str, ...] = ()


def UNet2DModel(config: Config, tokens: int | None) -> Interface:
    """DDPM's UNet (Ho et al. 2020) and its relatives; with labels, or a picture beside x."""
    return _interface(config, 2, _labels(config))


def UNet2DConditionModel(config: Config, tokens: int | None) -> Interface:
    """The UNet of Stable Diffusion 1, 2 and XL, of LCM, of inpainting: an encoded text, and what else each takes."""
    for field, known in (
        ("encoder_hid_dim_type", (None,)),
        ("encoder_hid_dim", (None,)),  # diffusers takes it for a type of its own
        ("addition_embed_type", (None, "text_time")),
    ):
        if config.get(field) not in known:
            raise UserError(f"a UNet2DConditionModel with {field} {config[field]!r}", WRITE_IT)
    width = config["cross_attention_dim"]
    width = width if isinstance(width, int) else width[0]
    taken = [(_vector("text", tokens or TOKENS, width), "encoder_hidden_states"), *_labels(config)]
    if guidance := config.get("time_cond_proj_dim"):  # LCM: the guidance weight, embedded
        taken.append((_vector("guidance", guidance), "timestep_cond"))
    if config.get("addition_embed_type"):
        pooled = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
        taken.append((_vector("pooled_text", pooled), f"{ADDED}text_embeds"))
        taken.append((_vector("time_ids", TIME_IDS), f"{ADDED}time_ids"))
    return _interface(config, 2, taken)


def DiTTransformer2DModel(config: Config, tokens: int | None) -> Interface:
    """DiT (Peebles & Xie 2023): labels, with one more for "none"."""
    labels = config["num_embeds_ada_norm"]
    label = Condition("class", "class", null=labels, low=0, high=labels - 1)
    return _interface(config, 2, [(label, "class_labels")])


def UNet1DModel(config: Config, tokens: int | None) -> Interface:
    """One-dimensional data [channels, length], such as sound."""
    return _interface(config, 1, [])


CLASSES: tuple[Callable[[Config, int | None], Interface], ...] = (
    UNet2DModel,
    UNet2DConditionModel,
    DiTTransformer2DModel,
    UNet1DModel,
)


def _interface(config: Config, dimensions: int, taken: list[tuple[Condition, str]]) -> Interface:
    """With x's shape. Fewer channels come out than go in where there is a picture beside x."""
    given, made = int(config["in_channels"]), int(config.get("out_channels") or config["in_channels"])
    channels = given if made == 2 * given else made  # twice as many: a learned variance
    size = config["sample_size"]
    sizes = (size,) * dimensions if isinstance(size, int) else tuple(size or ())
    if len(sizes) != dimensions or not all(isinstance(each, int) and each > 0 for each in sizes):
        raise UserError(f"sample_size {size!r} in config.json", "write the size that the network was trained on there")
    if given > channels:
        taken = [*taken, (_vector("image", given - channels, *sizes), IMAGE)]
    conditions, arguments = zip(*taken, strict=True) if taken else ((), ())
    return Interface((channels, *sizes), tuple(conditions), tuple(arguments))


def _labels(config: Config) -> list[tuple[Condition, str]]:
    if config.get("class_embed_type") is not None:
        raise UserError(f"a network with class_embed_type {config['class_embed_type']!r}", WRITE_IT)
    count = config.get("num_class_embeds")
    return [] if count is None else [(Condition("class", "class", low=0, high=count - 1), "class_labels")]


def _vector(name: str, *shape: int) -> Condition:
    return Condition(name, name, shape, "float32")
