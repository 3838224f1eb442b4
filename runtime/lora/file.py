"""LoRA files, read without torch: their updates by network and layer, and their configuration."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Adapter
from fewstep.runtime.bundle.reading import file_sha256
from fewstep.runtime.links import Home, refuse_broken_link
from fewstep.runtime.lora.aliases import Place
from fewstep.runtime.lora.keys import DENOISER, Component, group_keys, layers_of
from fewstep.runtime.lora.option import split_network_of_file, split_strength
from fewstep.runtime.lora.patterns import LARGEST, Numbers, find_number, read_number, read_pattern
from fewstep.runtime.tensor_file import check_header

CONFIG = "adapter_config.json"  # the file that peft writes besides adapter_model.safetensors
METADATA = "lora_adapter_metadata"  # diffusers' key in the file: fields, mostly prefixed with the network's name
PEFT = "base_model.model."  # peft's prefix of the keys in a file
PREFIXES = ("unet", "transformer")  # names of the denoiser in the metadata; text encoders have their own
FORMS = ("LORA", "LOHA", "LOKR")  # values of peft_type in peft's configuration
# Values of peft's init_lora_weights that leave the trained weights as they are. Others, such as pissa and olora,
# subtract the initial update from them, so that the file fits changed weights only.
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
# Fields with which peft's LoRA is more than an update of weights: it depends on tokens or on other layers, the file has
# other parts besides, or the factors belong to other weights. A file that lacks those parts is not complete.
BEYOND_WEIGHTS = (
    "alora_invocation_tokens",
    "layer_replication",
    "arrow_config",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "ensure_weight_tying",
    "lora_bias",
    "megatron_config",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
NEEDED = (("up", "down"), ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("diff",))  # parts that each form needs
NAMED = 3  # how many keys or layers an error names
COPY_AGAIN = "copy it again"
CONVERT = "write it with peft's save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL)"
OTHER_NETWORK = "give a LoRA that was trained for this network"
KNOWN = "fewstep reads LoRA, LoCon, LoHa, LoKr and DoRA: docs/export/changes.md"
NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}

Floats = NDArray[np.float32]
Parts = Mapping[str, Floats]  # part (named as in `keys.py`) -> its array
Updates = Mapping[tuple[Component, str], Parts]  # by network and layer, named as in the file


@dataclass(frozen=True)
class AlphaScale:
    """The scale alpha / r from the configuration, for updates without an `alpha`. If alpha is None, it equals r."""

    alpha: float | None = None
    rank: float | None = None  # the rank, for forms whose arrays do not show it
    is_stabilized: bool = False  # alpha / sqrt(r): Kalajdzievski 2023

    def update_factor(self, rank: int | None, array: Any | None) -> float:
        """Return the factor of an update of that rank. `array` is the file's alpha, one number, if it has one."""
        r = rank or self.rank
        alpha = array.item() if array is not None else self.alpha
        if r is None or alpha is None:
            return 1.0
        return alpha / (math.sqrt(r) if self.is_stabilized else r)


@dataclass(frozen=True)
class AdapterConfig:
    """The configuration of a LoRA file. Keys of `alphas` and `ranks` are regular expressions for names of layers, or
    for their ends after a dot."""

    alpha: float | None = None
    rank: float | None = None
    alphas: Numbers = field(default_factory=dict)
    is_stabilized: bool = False
    ranks: Numbers = field(default_factory=dict)  # for forms whose arrays do not show the rank
    root: str = ""  # what may come before the names of layers in the network that peft trained

    def scale(self, layer: str) -> AlphaScale:
        """Return the scale of a layer, by its name in the file."""
        name = layer.removeprefix(PEFT)
        if name == layer and name.partition(".")[0] in PREFIXES:  # diffusers' name of the network, which peft lacks
            name = name.partition(".")[2]
        names = (self.root + name, name)
        alpha, rank = (find_number(numbers, names) for numbers in (self.alphas, self.ranks))
        return AlphaScale(self.alpha if alpha is None else alpha, rank or self.rank, self.is_stabilized)


@dataclass(frozen=True)
class Lora:
    """The updates of a file. Their parts are given by network and layer, under the file's names."""

    name: str  # without a folder
    sha256: str
    strength: float
    updates: Updates
    configs: Mapping[str, AdapterConfig] = field(default_factory=dict)  # by component, or by another network's name
    network: str | None = None  # the network that the caller named

    def scale(self, component: Component, layer: str) -> AlphaScale:
        """Return the scale of the update of a network's layer, by its name in the file."""
        return self.configs.get(component, AdapterConfig()).scale(layer)

    def layers(self, component: Component) -> tuple[str, ...]:
        """Return the names of the layers that it changes in a network."""
        return tuple(layer for network, layer in self.updates if network == component)

    def match_layers(self, names: Collection[str], network: str, component: Component = DENOISER) -> dict[str, Place]:
        """Return, for each layer of the file, the layers of a network that it refers to, among `names`.

        Raises UserError that names missing layers, and for two names of one layer.
        """
        changed = self.layers(component)
        layers = layers_of(names, changed)
        by_name = {layer: layers.find(layer) for layer in changed}
        places = {layer: place for layer, place in by_name.items() if place is not None}
        if missing := [layer for layer in changed if layer not in places]:
            what = f"{self.name}: {network} lacks {len(missing)} of the layers that the file changes ({len(changed)})"
            fix = OTHER_NETWORK if places else f"{OTHER_NETWORK}, or rename its keys as the layers of {network}"
            raise UserError(f"{what}: {first_few(missing)}", fix)
        names_of: dict[str, str] = {}
        for layer, place in places.items():
            for own in place.layers:
                if (other := names_of.setdefault(own, layer)) != layer:
                    raise UserError(f"{self.name} changes layer {own!r} twice, as {other!r} and {layer!r}", COPY_AGAIN)
        return places

    @property
    def adapter(self) -> Adapter:
        """The entry for this file in the manifest."""
        return Adapter(self.name, self.sha256, self.strength, self.network)

    @property
    def text(self) -> str:
        """The file as an option names it: FILE:STRENGTH, or FILE:STRENGTH@NETWORK."""
        return f"{self.name}:{self.strength:g}" + ("" if self.network is None else f"@{self.network}")


def read_lora(text: str) -> Lora:
    """Read the safetensors file that `FILE[:STRENGTH][@NETWORK]` names, or the only one in a folder.

    Raises UserError that names what is wrong.
    """
    name, network = split_network_of_file(text)
    return lora_of(*split_strength(name, "--lora"), network)


def lora_of(path: Path, strength: float, network: str | None = None) -> Lora:
    """Read a safetensors file, or the only one in a folder, at a strength, for a network that the caller named."""
    if not abs(strength) <= LARGEST:  # also refuses NaN
        what = f"the strength of {path.name} is not between {-LARGEST:g} and {LARGEST:g}"
        raise UserError(what, "give a number such as 0.8")
    file = file_of(path)
    config = file.with_name(CONFIG)
    home, files = (Home(path, config), (file, config)) if path.is_dir() else (Home(file.parent, file), (config,))
    with home.keep(files):
        return _read(path, file, strength, network)


def _read(path: Path, file: Path, strength: float, network: str | None) -> Lora:
    tensors, metadata = read_tensors(file)
    updates, unknown = group_keys(tensors)
    if unknown or not updates:
        what = (
            f"{file.name} contains {first_few(unknown)}, which is not part of a LoRA"
            if unknown
            else f"{file.name} is empty"
        )
        raise UserError(what, KNOWN)
    loaded = {where: {part: tensors[key] for part, key in keys.items()} for where, keys in updates.items()}
    for (_, layer), parts in loaded.items():
        if not is_whole(parts):
            what = f"{file.name}: the parts of layer {layer!r} are not one complete update: {', '.join(parts)}"
            raise UserError(what, COPY_AGAIN)
        if (alpha := parts.get("alpha")) is not None and alpha.size != 1:
            raise UserError(f"{file.name}: the alpha of layer {layer!r} has {alpha.size} numbers, not 1", COPY_AGAIN)
    if any(key.startswith(PEFT) for key in tensors):
        _check_kronecker_axes(file.name, loaded)
    configs = _configs(file, path.is_dir(), metadata, loaded)
    return Lora(path.name, file_sha256(file), strength, loaded, configs, network)


def _check_kronecker_axes(name: str, updates: Updates) -> None:
    """Raise UserError for a full LoKr factor of a one-dimensional convolution in a file of peft. Its Kronecker product
    orders the factors' axes differently from LyCORIS's."""
    for (_, layer), parts in updates.items():
        if (factor := parts.get("lokr_w2")) is not None and factor.ndim == 3:
            what = f"{name}: {layer!r} has peft's LoKr of a one-dimensional convolution, which differs from LyCORIS's"
            raise UserError(what, "merge it with peft's merge_and_unload, and export the merged network")


def is_whole(parts: Collection[str]) -> bool:
    """Return True if the parts form exactly one LoRA update: none is missing, and none belongs to another type of
    LoRA."""
    forms = [needed for needed in NEEDED if set(needed) & set(parts)]
    complete = [needed for needed in forms if set(needed) <= set(parts)]
    if "up_bias" in parts and "up" not in parts:
        return False
    kronecker = any(part.startswith("lokr") for part in parts)
    if kronecker and not has_kronecker(parts) or forms != complete:
        return False
    return len(forms) + kronecker == 1 or not forms and not kronecker and "diff_b" in parts


def has_kronecker(parts: Collection[str]) -> bool:
    return all({f"lokr_w{side}"} <= set(parts) or {f"lokr_w{side}_{x}" for x in "ab"} <= set(parts) for side in "12")


def file_of(path: Path) -> Path:
    """Return the safetensors file that a path names: the file itself, or the only one in a folder."""
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise UserError(f"{path.name[:40]!r} cannot be read ({error.strerror})", "check the path") from error
    if is_folder:
        files = sorted(path.glob("*.safetensors"))
        if len(files) > 1:
            raise UserError(f"{path} contains {first_few([file.name for file in files])}", "give one of the files")
        if not files:
            raise UserError(f"{path} contains no safetensors file", "give the folder that peft or diffusers wrote")
        return files[0]
    if not path.is_file():
        refuse_broken_link(path)
        raise UserError(f"there is no file {path}", "check the path")
    if path.suffix != ".safetensors":
        what = f"{path.name} is not a safetensors file, and loading a pickle may run any code"
        raise UserError(what, "convert it to safetensors first")
    return path


def read_tensors(file: Path) -> tuple[dict[str, Floats], Mapping[str, str]]:
    """Return the tensors of a safetensors file in float32, and its metadata. Raises UserError if the file cannot be
    read."""
    try:
        content = file.read_bytes()
        check_header(content)
        entries = deserialize(content)  # type: ignore[no-untyped-call]
        if whole := [key for key, tensor in entries if tensor["dtype"][0] in "IU" and math.prod(tensor["shape"]) > 1]:
            what = f"{file.name} stores {first_few(whole)} as integers, and quantized weights cannot be read"
            raise UserError(what, "store them in float16 or float32")
        tensors = {key: _floats(**tensor) for key, tensor in sorted(entries, key=itemgetter(0))}
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{file.name} cannot be read ({error})", COPY_AGAIN) from error
    if broken := [key for key, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise UserError(f"{file.name} contains NaN or infinity in {first_few(broken)}", COPY_AGAIN)
    return tensors, metadata


def _floats(dtype: str, shape: Sequence[int], data: bytes) -> Floats:
    """Decode a tensor of any supported type to float32. Raises KeyError for another type."""
    if dtype == "BF16":  # the upper half of a float32
        values: NDArray[Any] = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif dtype == "F8_E5M2":  # the upper half of a float16
        values = (np.frombuffer(data, "u1").astype("<u2") << 8).view("<f2")
    elif dtype == "F8_E4M3":  # this type has no infinity, and one NaN of each sign
        codes = np.frombuffer(data, "u1")
        exponent, fraction = (codes >> 3) & 15, codes & 7
        magnitude = np.ldexp(np.where(exponent, 8.0, 0.0) + fraction, np.maximum(exponent, 1).astype(int) - 10)
        values = np.where(codes & 127 == 127, np.nan, np.where(codes & 128, -magnitude, magnitude))
    else:
        values = np.frombuffer(data, NUMBERS[dtype])
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity
        return values.astype(np.float32).reshape(tuple(shape))


def _configs(file: Path, is_folder: bool, metadata: Mapping[str, str], updates: Updates) -> dict[str, AdapterConfig]:
    """Read the configuration of each network: peft's, from its file in the same folder, or diffusers', from the
    metadata. Networks without one are left out. A second denoiser, such as `transformer_2`, has its own name."""
    of_peft = file.with_name(CONFIG)
    try:
        if of_peft.is_file() and (is_folder or file.name == "adapter_model.safetensors"):
            own = json.loads(of_peft.read_bytes())
            config = _config(file.name, own, {layer: parts for (_, layer), parts in updates.items()})
            _check_targets(file.name, own, [layer for _, layer in updates])
            return dict.fromkeys(get_args(Component), config)
        fields = json.loads(metadata[METADATA]) if METADATA in metadata else {}
        grouped: dict[str, dict[str, Any]] = {}
        for name, value in fields.items():
            network, _, own = name.rpartition(".")
            grouped.setdefault(DENOISER if network in ("", *PREFIXES) else network, {})[own] = value
        return {network: _config(file.name, own, _of(network, updates)) for network, own in grouped.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"the configuration of {file.name} is damaged ({error})", COPY_AGAIN) from error


def _of(network: str, updates: Updates) -> dict[str, Parts]:
    """Return the updates of one network, by layer. For a network that is not a component, these are the denoiser's
    whose keys begin with its name."""
    if network in get_args(Component):
        return {layer: parts for (component, layer), parts in updates.items() if component == network}
    return {layer: parts for (_, layer), parts in updates.items() if layer.startswith(f"{network}.")}


def _config(name: str, fields: Mapping[str, Any], updates: Mapping[str, Parts]) -> AdapterConfig:
    """Return the configuration of one network from peft's fields. Raises UserError for a file that cannot be merged,
    and ValueError or TypeError for a damaged one."""
    if fields.get("peft_type", FORMS[0]) not in FORMS:
        raise UserError(f"{name} has the type {fields['peft_type']}", KNOWN)
    if fields.get("fan_in_fan_out"):
        raise UserError(f"{name} was trained on transposed weights (fan_in_fan_out)", OTHER_NETWORK)
    beyond = next((suffix for suffix in BEYOND_WEIGHTS if fields.get(suffix)), None)
    if fields.get("bias") not in (None, "none"):
        beyond = f"bias {fields['bias']!r:.20}"
    if beyond:
        raise UserError(f"{name} was trained with {beyond}, which is more than an update of weights", KNOWN)
    if (start := fields.get("init_lora_weights", True)) not in PLAIN_STARTS:
        raise UserError(f"{name} fits the weights that the initialization {start!r:.20} changed", CONVERT)
    _check_magnitudes(name, bool(fields.get("use_dora")), updates)
    has_ranks = fields.get("peft_type") == "LOKR"  # arrays of the other forms show their rank
    return AdapterConfig(
        read_number("alpha", fields.get("lora_alpha", fields.get("alpha"))),
        read_number("r", fields.get("r") or None),
        read_pattern(name, "alpha_pattern", fields, updates),
        bool(fields.get("use_rslora")),
        read_pattern(name, "rank_pattern", fields, updates) if has_ranks else {},
    )


def _check_magnitudes(name: str, is_dora: bool, updates: Mapping[str, Parts]) -> None:
    """Raise UserError if use_dora and the magnitudes in the file contradict each other: peft would
    initialize magnitudes, or leave those of the file out."""
    for layer, parts in updates.items():
        if is_dora and "up" in parts and not {"magnitude", "dora_scale"} & parts.keys():
            raise UserError(f"{name} has use_dora, but no magnitudes of layer {layer!r}", COPY_AGAIN)
        if not is_dora and "magnitude" in parts:
            what = f"{name} has magnitudes of layer {layer!r}, but its configuration does not have use_dora"
            raise UserError(what, 'set "use_dora" to true if it was trained as a DoRA')


def _check_targets(name: str, fields: Mapping[str, Any], layers: Sequence[str]) -> None:
    """Raise UserError for a layer of a file of peft that its configuration excludes: peft would leave its update out.
    Regular expressions are not matched, because matching one may never end."""
    targets, excluded, indexes = (
        fields.get(key) for key in ("target_modules", "exclude_modules", "layers_to_transform")
    )
    numbers = {str(index) for index in (indexes if isinstance(indexes, list) else [] if indexes is None else [indexes])}
    for layer in layers:
        own, wrong = layer.removeprefix(PEFT), ""
        if isinstance(targets, list) and not _is_named(own, targets):
            wrong = "target_modules"
        elif isinstance(excluded, list) and _is_named(own, excluded):
            wrong = "exclude_modules"
        elif isinstance(targets, list) and own not in targets and numbers and not numbers & {*own.split(".")}:
            wrong = "layers_to_transform"  # which does not restrict whole names in target_modules
        if wrong:
            raise UserError(f"{name} changes layer {layer!r}, which its {wrong} leaves out", COPY_AGAIN)


def _is_named(layer: str, names: Sequence[Any]) -> bool:
    """Return True if one of the names is the layer's, or the end of it."""
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def first_few(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are, as text."""
    all_names = list(names)
    shown = ", ".join(repr(name) for name in all_names[:NAMED])
    return shown if len(all_names) <= NAMED else f"{shown} and {len(all_names) - NAMED} more"
