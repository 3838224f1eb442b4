"""LoRA files merged into a denoiser before it is traced: what runs is one network, as fast as the one without them."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.lora.keys import DENOISER, Component, grouped, layers_of
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Adapter
from fewstep.runtime.bundle.reading import file_sha256

if TYPE_CHECKING:
    import torch

    from fewstep.export.lora.delta import AlphaScale, Parts

CONFIG = "adapter_config.json"  # as peft writes it beside adapter_model.safetensors
METADATA = "lora_adapter_metadata"  # as diffusers writes it into the file: fields, mostly behind the network's name
DENOISERS, ENCODER = (r"unet\.", r"transformer\."), "text_encoder"  # networks that the metadata may speak of
FORMS = ("LORA", "LOHA", "LOKR")  # of peft's configuration
NAMED = 3  # keys or layers that an error names
LARGEST = 1e6  # of a number in a configuration: beyond, it is damage
COPY_AGAIN = "copy it again"
OTHER_NETWORK = "give a LoRA that was trained for this network"
KNOWN = "fewstep reads LoRA, LoCon, LoHa, LoKr and DoRA: docs/export/lora.md"


@dataclass(frozen=True)
class AdapterConfig:
    """The configuration of a file of updates. `alphas` are by a pattern that matches a layer's name."""

    alpha: float | None = None
    rank: float | None = None
    alphas: Mapping[re.Pattern[str], float | None] = field(default_factory=dict)
    is_stabilized: bool = False

    def scale(self, layer: str) -> "AlphaScale":
        """The scale of the layer that the file calls so."""
        from fewstep.export.lora.delta import AlphaScale

        own = next((alpha for pattern, alpha in self.alphas.items() if pattern.match(layer)), None)
        return AlphaScale(self.alpha if own is None else own, self.rank, self.is_stabilized)


@dataclass(frozen=True)
class Lora:
    """A file's updates: of which network and layer (as the file names it), the parts of each."""

    name: str  # without a folder
    sha256: str
    strength: float
    updates: Mapping[tuple[Component, str], "Parts"]
    config: AdapterConfig = AdapterConfig()

    def layers(self, component: Component) -> tuple[str, ...]:
        """Names of the layers that it changes in a network."""
        return tuple(layer for network, layer in self.updates if network == component)

    @property
    def adapter(self) -> Adapter:
        """What the manifest says of it."""
        return Adapter(self.name, self.sha256, self.strength)


def read_lora(text: str) -> Lora:
    """The safetensors file that `FILE[:STRENGTH]` names, or the one in a folder. UserError naming what is wrong."""
    path, strength = _strength(text)
    file = _file(path)
    tensors, metadata = read_tensors(file)
    updates, unknown = grouped(tensors)
    if unknown or not updates:
        what = f"{file.name} holds {_some(unknown)}, which is no part of a LoRA" if unknown else f"{file.name} is empty"
        raise UserError(what, KNOWN)
    from fewstep.export.lora.delta import is_whole

    loaded = {where: {part: tensors[key] for part, key in keys.items()} for where, keys in updates.items()}
    for (_, layer), parts in loaded.items():
        if not is_whole(parts):
            what = f"{file.name}: what it holds of layer {layer!r} is not one whole update: {', '.join(parts)}"
            raise UserError(what, COPY_AGAIN)
        if (alpha := parts.get("alpha")) is not None and alpha.numel() != 1:
            raise UserError(f"{file.name}: the alpha of layer {layer!r} holds {alpha.numel()} numbers", COPY_AGAIN)
    return Lora(path.name, file_sha256(file), strength, loaded, _config(file, path.is_dir(), metadata))


def merge(module: "torch.nn.Module", lora: Lora, component: Component = DENOISER) -> None:
    """Change the module's weights by what the file has for that network, in float32. Strength 0 changes nothing.

    UserError where a layer is not in the module, or has another shape: then nothing is changed. Also where a weight
    becomes too large for float32: then the module is of no use.
    """
    by_layer = _layers_by_name(module, lora, component)
    for layer, layers in by_layer.items():  # first without values: what fails, fails before anything is changed
        _check_fit(lora, layer, layers, lora.updates[component, layer])
    if lora.strength == 0:
        return
    for layer, layers in by_layer.items():
        for parameter, value in _updated(
            layers, lora.updates[component, layer], lora.config.scale(layer), lora.strength
        ):
            if not bool(value.isfinite().all()):
                what = f"{lora.name} makes NaN or infinity of the weights of {layer!r}"
                raise UserError(what, "check its alpha, and give a smaller strength")
            parameter.data = value.contiguous()


def _layers_by_name(module: "torch.nn.Module", lora: Lora, component: Component) -> "dict[str, list[Any]]":
    """The layers of the module that each layer of the file stands for. UserError naming what is not there."""
    targets = _targets(module)
    wanted = lora.layers(component)
    layers = layers_of(tuple(targets), wanted)
    places = {layer: layers.find(layer) for layer in wanted}
    if missing := [layer for layer, names in places.items() if not names]:
        name = type(module).__name__
        raise UserError(
            f"{lora.name}: {len(wanted) - len(missing)} of the {len(wanted)} layers that it changes are in {name}, "
            f"but {_some(missing)} is not",
            OTHER_NETWORK,
        )
    return {layer: [targets[name] for name in names] for layer, names in places.items()}


def _check_fit(lora: Lora, layer: str, layers: "Sequence[Any]", parts: "Parts") -> None:
    """UserError where an update has not the shape of the layers that it is for."""
    from fewstep.export.lora.delta import AlphaScale

    try:
        _updated(layers, {part: tensor.to("meta") for part, tensor in parts.items() if part != "alpha"}, AlphaScale())
    except (ValueError, IndexError, RuntimeError) as error:
        shapes = ", ".join(str(list(each.weight.shape)) for each in layers)
        update = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items() if part != "alpha")
        reason = error if isinstance(error, ValueError) else "these do not fit one another"  # torch says it in its way
        what = f"{lora.name}: {layer!r} has a weight of {shapes}, and the file {update}: {reason}"
        raise UserError(what, OTHER_NETWORK) from error


def _updated(
    layers: "Sequence[Any]", parts: "Parts", scale: "AlphaScale", strength: float = 1.0
) -> "list[tuple[torch.nn.Parameter, torch.Tensor]]":
    """(parameter, what it becomes) of layers whose outputs lie one after the other in the file."""
    import torch

    from fewstep.export.lora.delta import updated

    device = next(tensor.device for part, tensor in parts.items() if part != "alpha")
    changes: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    if set(parts) - {"diff_b", "alpha"}:
        weights = [layer.weight for layer in layers]
        whole = torch.cat([weight.detach().to(device).float() for weight in weights])
        changes += zip(weights, updated(whole, parts, scale, strength).split([len(w) for w in weights]), strict=True)
    if (change := parts.get("diff_b")) is not None:
        bias = getattr(layers[0], "bias", None) if len(layers) == 1 else None
        if bias is None or bias.shape != change.shape:
            raise ValueError("the last does not fit its bias")
        changes.append((bias, bias.detach().to(device).float() + strength * change))
    return changes


def _targets(module: "torch.nn.Module") -> "dict[str, Any]":
    """The layers with a weight [out, in, ...] of their own."""
    import torch

    transposed = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)  # [in, out, ...]
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "weight", None), torch.nn.Parameter) and not isinstance(layer, transposed)
    }


def _strength(text: str) -> tuple[Path, float]:
    """A name may hold a colon itself."""
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        strength = float(number)
    except ValueError:
        if not Path(name).exists():
            return Path(text), 1.0
        what = f"--lora {Path(name).name}:{number}: {number!r} is no strength"
        raise UserError(what, "give a number, as in FILE:0.8, or FILE alone for 1") from None
    if not math.isfinite(strength):
        raise UserError(f"--lora {Path(name).name}:{number} has no finite strength", "give a number, as in FILE:0.8")
    return Path(name), strength


def _file(path: Path) -> Path:
    """The safetensors file that a path names."""
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) > 1:
            raise UserError(f"{path} holds {_some([file.name for file in files])}", "give one of the files")
        if not files:
            raise UserError(f"{path} holds no safetensors file", "give the folder that peft or diffusers wrote")
        return files[0]
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path behind --lora")
    if path.suffix != ".safetensors":
        raise UserError(f"{path.name} is not a safetensors file, and a pickle may run any code", "convert it first")
    return path


def read_tensors(file: Path) -> "tuple[dict[str, torch.Tensor], Mapping[str, str]]":
    """(its tensors in float32, its metadata)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{file.name} cannot be read ({error})", COPY_AGAIN) from error
    if broken := [key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise UserError(f"{file.name} holds NaN or infinity in {_some(broken)}", COPY_AGAIN)
    return tensors, metadata


def _config(file: Path, is_folder: bool, metadata: Mapping[str, str]) -> AdapterConfig:
    """peft's configuration, from its file in the same folder, or from the metadata."""
    beside = file.with_name(CONFIG)
    fields: Any = {}
    try:
        if beside.is_file() and (is_folder or file.name == "adapter_model.safetensors"):
            fields = json.loads(beside.read_bytes())
        elif METADATA in metadata:
            values = {
                name: value for name, value in json.loads(metadata[METADATA]).items() if not name.startswith(ENCODER)
            }
            fields = {re.sub(f"^({'|'.join(DENOISERS)})", "", name): value for name, value in values.items()}
        if fields.get("peft_type", FORMS[0]) not in FORMS:
            raise UserError(f"{file.name} is of kind {fields['peft_type']}", KNOWN)
        if fields.get("fan_in_fan_out"):
            raise UserError(f"{file.name} was trained on transposed weights (fan_in_fan_out)", OTHER_NETWORK)
        alphas = dict(fields.get("alpha_pattern") or {})
        return AdapterConfig(
            _number("alpha", fields.get("lora_alpha", fields.get("alpha"))),
            _number("r", fields.get("r") or None),
            {re.compile(rf"(.*\.)?({pattern})$"): _number(pattern, alpha) for pattern, alpha in alphas.items()},
            bool(fields.get("use_rslora")),
        )
    except (ValueError, AttributeError, TypeError, RecursionError, re.error) as error:
        raise UserError(f"the configuration of {file.name} is damaged ({error})", COPY_AGAIN) from error


def _number(name: str, value: Any) -> float | None:
    """A number of the configuration, if it is said at all. ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{name} is {value!r:.20}")
    return float(value)


def _some(names: Iterable[str]) -> str:
    """The first few."""
    all_names = list(names)
    shown = ", ".join(repr(name) for name in all_names[:NAMED])
    return shown if len(all_names) <= NAMED else f"{shown} and {len(all_names) - NAMED} more"
