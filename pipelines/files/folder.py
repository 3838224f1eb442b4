"""The folder of a diffusers pipeline: its components and their configs."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fewstep.export.sources.model_files import CONFIG, GIVE_PIPELINE, ONNX, Config, read_json
from fewstep.export.sources.model_files import INDEX as INDEX
from fewstep.plans.errors import UserError, quote_path

ANY_WEIGHTS = "*.safetensors"
DIFFUSERS = "diffusers"  # the library of a component
SCHEDULER_CONFIG = "scheduler_config.json"
FORMER_CLASS = "Transformer2DModel"
PRESENT_CLASSES = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}


@dataclass(frozen=True)
class Folder:
    """A pipeline's folder, with model_index.json and its components."""

    path: Path

    @cached_property
    def index(self) -> Config:
        """The components of the folder and their classes. Raises UserError if this is not a diffusers folder."""
        if not (self.path / INDEX).is_file():
            raise UserError(f"{self.path} is not a diffusers folder: it has no {INDEX}", GIVE_PIPELINE)
        return read_json(self.path / INDEX)

    @property
    def pipeline(self) -> str:
        """The name of the pipeline's class, or "". (For a class in user code, the config has its module too.)"""
        named = self.index.get("_class_name") or ""
        return str(named[-1] if isinstance(named, list) and named else named)

    def has(self, component: str) -> bool:
        """Return True if model_index.json names the component. It lists absent ones as [null, null]."""
        named = self.index.get(component)
        return bool(named) and named != [None, None]

    def home(self, component: str) -> Path:
        """Return the folder of a component. As for diffusers, it may be the pipeline's own, where a config names the
        class of the component, as in the first folders that were published, such as those of DDPM."""
        inner, named = self.path / component, self.index.get(component)
        kind = named[-1] if isinstance(named, list) and named else None
        files = () if kind is None or inner.is_dir() else (self.path / CONFIG, self.path / SCHEDULER_CONFIG)
        is_here = any(file.is_file() and read_json(file).get("_class_name") == kind for file in files)
        return self.path if is_here else inner

    def class_of(self, component: str) -> str:
        """Return the class name of a component from model_index.json, which stores [library, class]."""
        named = self.index.get(component)
        name = str(named[-1] if isinstance(named, list) and named else named)
        return str(self.config(component).get("_class_name", name)) if name == FORMER_CLASS else name

    def class_of_diffusers(self, component: str) -> str | None:
        """Return the class of diffusers that model_index.json names for a component, or None if it names none, as
        optimum does for its networks."""
        named = self.index.get(component)
        return self.class_of(component) if isinstance(named, list) and named[:1] == [DIFFUSERS] else None

    def check_class(self, component: str) -> None:
        """Raise UserError if the index and the component's config name different classes. diffusers loads that of the
        index."""
        listed, own = self.class_of_diffusers(component), self.config(component).get("_class_name")
        if listed is not None and isinstance(own, str) and listed != own:
            what = f"{self.path / INDEX} says that {component} is a {listed}, and {self.home(component) / CONFIG}"
            raise UserError(f"{what} that it is a {own}", "name the same class in both, that of the weights")

    def config(self, component: str) -> Config:
        """Return the fields of a network's config file; empty if there is none."""
        home = self.home(component)
        return read_config(home) if (home / CONFIG).is_file() else {}


def refuse_onnx(folder: Folder) -> None:
    """Raise UserError for a folder that optimum exported, whose networks are ONNX files. Others have such files next to
    the weights, as that of Stable Diffusion XL."""
    files = (folder.home(name) / ONNX for name in folder.index)
    file = next((path for path in files if path.is_file() and not any(path.parent.glob(ANY_WEIGHTS))), None)
    if file is not None:
        what = f"{folder.path} contains {file.relative_to(folder.path)}, and a recording needs the network itself"
        fix = f"give the folder that was exported to it, or describe the file: {quote_path(file)} --spec SPEC.json"
        raise UserError(what, fix)


def is_component(path: Path) -> bool:
    """Return True if a folder holds one network and names its class."""
    if (path / INDEX).exists() or not (path / CONFIG).is_file():
        return False
    try:
        return "_class_name" in read_json(path / CONFIG)
    except UserError:
        return False


def read_config(home: Path) -> dict[str, Any]:
    """Return the fields of a network's config.json. In folders of early versions of diffusers, such as those published
    for DiT, two networks have the class name that they had then: it is replaced by the present one."""
    fields = read_json(home / CONFIG)
    if fields.get("_class_name") != FORMER_CLASS:
        return fields
    return {**fields, "_class_name": PRESENT_CLASSES.get(str(fields.get("norm_type")), FORMER_CLASS)}
