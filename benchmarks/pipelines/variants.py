"""Changes of a pipeline's folder and of its call, since the tests of diffusers have almost no configs of published
weights: fields of the scheduler's config, such as a shift or Karras sigmas, and the size of the samples."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pipelines.public_configs import PublicConfig
from fewstep.export.options.call_option import FILE

CONFIG = Path("scheduler") / "scheduler_config.json"
SIDES = ("height", "width")


@dataclass(frozen=True)
class Variant:
    """public: the config of a scheduler that replaces that of the folder. scheduler: fields of the config by name.
    scale: the factor of the height and width of a call, if it has any."""

    scheduler: Mapping[str, Any] = field(default_factory=dict)
    scale: int = 1
    public: PublicConfig | None = None

    def apply(self, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Change the scheduler's config of a folder. Returns the changed arguments of its call.

        Raises LookupError if the scheduler's class does not have a field.
        """
        import diffusers

        if self.public is not None:
            self.public.write(folder)
        if self.scheduler:
            path = folder / CONFIG
            config = json.loads(path.read_text(encoding="utf-8"))
            takes = inspect.signature(getattr(diffusers, config["_class_name"])).parameters
            if unknown := sorted(set(self.scheduler) - set(takes)):
                raise LookupError(f"{config['_class_name']} has no {', '.join(unknown)}")
            path.write_text(json.dumps({**config, **self.scheduler}), encoding="utf-8")
        return {**settings, **{name: self.scale * settings[name] for name in find_sides(settings)}}


def find_sides(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the sizes among the arguments of a call."""
    return [name for name in SIDES if isinstance(settings.get(name), int)]


def read_fields(texts: list[str]) -> dict[str, Any]:
    """Return the fields of NAME=VALUE texts, whose values are JSON. Raises ValueError for another text."""
    fields: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        fields[name] = json.loads(value)
    return fields


def write_call(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values of --call."""
    return tuple(f"{name}={_write_value(value)}" for name, value in settings.items())


def _write_value(value: Any) -> str:
    """Return a value as --call reads it: the name of a file as it is, and others as JSON."""
    return value if isinstance(value, str) and value.startswith(FILE) else json.dumps(value)
