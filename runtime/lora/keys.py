"""The meaning of the keys of a LoRA file: the factor, its layer, its network.

Trainers name layers in many ways. Read without punctuation (`flatten_name`) most of them say the same, so a name that
is not found as it stands is looked up so, also among the names that the same network has elsewhere (`aliases.py`). A
key that is not understood is reported by whoever reads the file: none is passed over.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from fewstep.runtime.lora.aliases import Aliases, aliases

Component = Literal["denoiser", "text_encoder", "text_encoder_2", "text_encoder_3"]
DENOISER: Component = "denoiser"

# How a key ends, and the part that the tensor is. An adapter's own name may stand before ".weight", as peft writes it.
PARTS: tuple[tuple[str, str], ...] = (
    (r"[._]lora(?:_A|_down|\.down|_linear_layer\.down)(?:\.\w+)?\.weight", "down"),
    (r"[._]lora(?:_B|_up|\.up|_linear_layer\.up)(?:\.\w+)?\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"[._]lora_magnitude_vector(?:\.\w+)?(?:\.weight)?", "magnitude"),
    (r"\.(dora_scale|alpha|diff|diff_b|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))", ""),
)
PATTERNS = tuple((re.compile(rf"(?P<layer>.+?){ending}"), part) for ending, part in PARTS)

# Prefixes that name the network, in the order in which they are looked for; the longer of two that begin alike first.
ENCODERS: dict[str, Component] = {
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_te_": "text_encoder",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
}
WRAPPERS = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "module.")
KOHYA = ("lora_unet_", "lora_transformer_", "lycoris_")
TEXT_ATTENTION = {  # of a text encoder: as it is called -> as diffusers' first LoRA files do
    ".q_proj": ".to_q",
    ".k_proj": ".to_k",
    ".v_proj": ".to_v",
    ".out_proj": ".to_out",
}
DEEPEST_ROOT = 3  # modules around a network: fewstep's, and the user's own


@dataclass(frozen=True)
class Key:
    """A key of a file: `part` of the layer that the file calls `layer`, without what names the network."""

    component: Component
    layer: str
    part: str


def read_key(key: str) -> Key | None:
    """The meaning of a key, or None."""
    for pattern, part in PATTERNS:
        if match := pattern.fullmatch(key):
            component, layer = _network(match["layer"])
            return Key(component, layer, part or match[2])
    return None


def _network(layer: str) -> tuple[Component, str]:
    """The network that a layer's name begins with, and the name without it."""
    name = layer.removeprefix("base_model.model.")
    for prefix, component in ENCODERS.items():
        if name.startswith(prefix):
            return component, name.removeprefix(prefix)
    return DENOISER, layer


def flatten_name(name: str) -> str:
    """A name as kohya writes it: every dot an underscore."""
    return name.replace(".", "_")


class NamedLayers:
    """The layers of a network by every name that a file may have for them."""

    def __init__(self, names: Collection[str], root: str = "") -> None:
        """`names` are the layers of a module. The layers of the network in it begin with `root`."""
        self.root = root
        self.inner = {name.removeprefix(root) for name in names if name.startswith(root)}
        once = Counter(map(flatten_name, self.inner))
        self.table: dict[str, tuple[str, ...]] = {
            flatten_name(name): (name,) for name in self.inner if once[flatten_name(name)] == 1
        }
        for alias, layers in _known_aliases(self.inner):
            if flatten_name(alias) not in once:
                self.table[flatten_name(alias)] = layers

    def find(self, name: str) -> tuple[str, ...]:
        """The layers that a file calls `name`. Several: in the file their outputs lie one after the other."""
        for form in _name_variants(name):
            if layers := (form,) if form in self.inner else self.table.get(flatten_name(form), ()):
                return tuple(self.root + layer for layer in layers)
        return ()


def layers_of(names: Collection[str], wanted: Iterable[str]) -> NamedLayers:
    """The layers of the module in which most of the `wanted` names are found."""
    wanted = tuple(wanted)
    return max(
        (NamedLayers(names, root) for root in _candidate_roots(names)),
        key=lambda each: sum(map(bool, map(each.find, wanted))),
    )


def _candidate_roots(names: Collection[str]) -> Iterator[str]:
    """The whole module, then its largest part, and so on."""
    root = ""
    for _ in range(DEEPEST_ROOT + 1):
        yield root
        inner = (name.removeprefix(root) for name in names if name.startswith(root))
        children = Counter(name.split(".")[0] for name in inner if "." in name)
        if not children:
            return
        root += f"{children.most_common(1)[0][0]}."


def _name_variants(name: str) -> Iterator[str]:
    """The name as it is, and without what may stand before and in it."""
    yield name
    bare, before = name.replace(".processor.", "."), ""
    while bare != before:
        yield bare
        before = bare
        bare = next((bare.removeprefix(wrapper) for wrapper in WRAPPERS + KOHYA if bare.startswith(wrapper)), bare)


def _known_aliases(names: Collection[str]) -> Aliases:
    """Older names of the layers, then their names in other implementations of the network."""
    for name in names:
        if name.endswith(".to_out.0"):  # diffusers' first LoRA files leave the number out
            yield name.removesuffix(".0"), (name,)
        text = name.removeprefix("text_model.")  # newer versions of transformers leave this out
        former = next((text.removesuffix(new) + old for new, old in TEXT_ATTENTION.items() if text.endswith(new)), text)
        for each in (text, former):
            yield each, (name,)
            yield f"text_model.{each}", (name,)
    yield from aliases(names)


def group_keys(keys: Iterable[str]) -> tuple[Mapping[tuple[Component, str], Mapping[str, str]], tuple[str, ...]]:
    """({(component, layer): {part: key}}, keys that mean nothing or repeat another key)."""
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
