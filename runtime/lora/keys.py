"""Parse the keys of a LoRA file: the part, its layer and its network.

Trainers name layers in many ways, but most names are the same once their punctuation is removed (`flatten_name`). A
name that is not found exactly is therefore looked up without punctuation, also among the names that the network has in
other code (`aliases.py`). Readers of a file report every key that cannot be parsed.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fewstep.runtime.lora.aliases import Aliases, Place, aliases

Component = Literal["denoiser", "text_encoder", "text_encoder_2", "text_encoder_3"]
DENOISER: Component = "denoiser"
T5: Component = "text_encoder_3"  # trainers' name of a T5, also for a pipeline with one or two encoders

MODULATION = "diff_m"  # ending: the difference of the parameter `modulation` of a block of Wan
# The ending of a key, and its part. The adapter's name may come before ".weight", as peft writes it.
PARTS: tuple[tuple[str, str], ...] = (
    (r"[._]lora(?:_A|_down|\.down|_linear_layer\.down)(?:\.\w+)?\.weight", "down"),
    (r"[._]lora(?:_B|_up|\.up|_linear_layer\.up)(?:\.\w+)?\.weight", "up"),
    (r"(?<=_lora[12])\.down\.weight", "down"),  # XLabs: the number is part of the layer's name
    (r"(?<=_lora[12])\.up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"[._]lora_B(?:\.\w+)?\.bias", "up_bias"),
    (r"\.w_norm", "diff"),
    (r"\.b_norm", "diff_b"),
    (r"\.diff_m", MODULATION),
    (r"[._]lora_magnitude_vector(?:\.\w+)?(?:\.weight)?", "magnitude"),
    (r"\.(dora_scale|alpha|diff|diff_b|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))", ""),
)
PATTERNS = tuple((re.compile(rf"(?P<layer>.+?){ending}"), part) for ending, part in PARTS)

# Prefixes that name the network, in the order in which they are tried. Of two that begin alike, the longer one comes
# first.
ENCODERS: dict[str, Component] = {
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_te_": "text_encoder",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "text_encoders.clip_l.transformer.": "text_encoder",  # ComfyUI's
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_3",
}
WRAPPERS = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "module.")
KOHYA = ("lora_unet_", "lora_transformer_", "lycoris_")
TEXT_ATTENTION = {  # layers of a text encoder: current name -> name in diffusers' first LoRA files
    ".q_proj": ".to_q",
    ".k_proj": ".to_k",
    ".v_proj": ".to_v",
    ".out_proj": ".to_out",
}
DEEPEST_ROOT = 3  # how many nested modules may wrap a network: fewstep's and the user's


@dataclass(frozen=True)
class Key:
    """A key of a file: a `part` of a layer. `layer` is the layer's name in the file, without the network's prefix."""

    component: Component
    layer: str
    part: str


def read_key(key: str) -> Key | None:
    """Parse the name of a tensor in a LoRA file. None if its format is unknown."""
    for pattern, part in PATTERNS:
        if match := pattern.fullmatch(key):
            component, layer = _network(match["layer"])
            if part == MODULATION:
                layer, part = f"{layer}{'.' if '.' in layer else '_'}modulation", "diff"
            return Key(component, layer, part or match[2])
    return None


def _network(layer: str) -> tuple[Component, str]:
    """Return the network that prefixes a layer's name, and the name without the prefix."""
    name = layer.removeprefix("base_model.model.")
    for prefix, component in ENCODERS.items():
        if name.startswith(prefix):
            return component, name.removeprefix(prefix)
    return DENOISER, layer


def flatten_name(name: str) -> str:
    """Return a name as kohya writes it, with every dot replaced by an underscore."""
    return name.replace(".", "_")


class NamedLayers:
    """The layers of a network, which can be looked up by any of the names that LoRA files use for them."""

    def __init__(self, names: Collection[str], root: str = "") -> None:
        """Store the names of a module's layers. Names that begin with `root` are those of the network inside it."""
        self.root = root
        self.inner = {name.removeprefix(root) for name in names if name.startswith(root)}
        once = Counter(map(flatten_name, self.inner))
        self.table = {flatten_name(name): Place((name,)) for name in self.inner if once[flatten_name(name)] == 1}
        for alias, place in _known_aliases(self.inner):
            if flatten_name(alias) not in once:
                self.table[flatten_name(alias)] = place

    def find(self, name: str) -> Place | None:
        """Return the layers that a file calls `name`, or None if the network lacks one."""
        for form in _name_variants(name):
            place = Place((form,)) if form in self.inner else self.table.get(flatten_name(form))
            if place is not None:
                return replace(place, layers=tuple(self.root + layer for layer in place.layers))
        return None


def layers_of(names: Collection[str], wanted: Iterable[str]) -> NamedLayers:
    """Return the layers of the nested module in which most of the `wanted` names are found."""
    wanted = tuple(wanted)
    return max(
        (NamedLayers(names, root) for root in _candidate_roots(names)),
        key=lambda each: sum(map(bool, map(each.find, wanted))),
    )


def _candidate_roots(names: Collection[str]) -> Iterator[str]:
    """Yield the prefix of the whole module, then that of its largest child, and so on."""
    root = ""
    for _ in range(DEEPEST_ROOT + 1):
        yield root
        inner = (name.removeprefix(root) for name in names if name.startswith(root))
        children = Counter(name.split(".")[0] for name in inner if "." in name)
        if not children:
            return
        root += f"{children.most_common(1)[0][0]}."


def _name_variants(name: str) -> Iterator[str]:
    """Yield the name unchanged, then without the wrappers and infixes that trainers add."""
    yield name
    bare, before = name.replace(".processor.", "."), ""
    while bare != before:
        yield bare
        before = bare
        bare = next((bare.removeprefix(wrapper) for wrapper in WRAPPERS + KOHYA if bare.startswith(wrapper)), bare)


def _known_aliases(names: Collection[str]) -> Aliases:
    """Yield older names of the layers, then their names in other implementations of the network."""
    for name in names:
        if name.endswith(".to_out.0"):  # diffusers' first LoRA files omit the number
            yield name.removesuffix(".0"), Place((name,))
        text = name.removeprefix("text_model.")  # newer versions of transformers omit the prefix
        previous = next(
            (text.removesuffix(new) + old for new, old in TEXT_ATTENTION.items() if text.endswith(new)), text
        )
        for each in (text, previous):
            yield each, Place((name,))
            yield f"text_model.{each}", Place((name,))
    yield from aliases(names)


def group_keys(keys: Iterable[str]) -> tuple[Mapping[tuple[Component, str], Mapping[str, str]], tuple[str, ...]]:
    """Group keys. Returns {(component, layer): {part: key}}, and the keys that are unknown or repeat another one."""
    updates: dict[tuple[Component, str], dict[str, str]] = {}
    unknown = []
    for key in keys:
        read = read_key(key)
        parts = {} if read is None else updates.setdefault((read.component, read.layer), {})
        if read is None or read.part in parts:
            unknown.append(key)
        else:
            parts[read.part] = key
    return updates, tuple(unknown)
