"""The scheduler's config of a pipeline's public weights, from `public_configs.json`, in place of that of its test."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class PublicConfig:
    """A scheduler's class in diffusers and the fields of its config.

    pipelines: names or patterns of pipeline classes. source: the file, or the weights, with these values.
    """

    pipelines: Sequence[str]
    scheduler: str
    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the scheduler of a pipeline's folder. Raises TypeError for a field that its class does not have."""
        import diffusers

        getattr(diffusers, self.scheduler)(**self.fields).save_pretrained(folder / "scheduler")
        index = folder / "model_index.json"
        content = json.loads(index.read_text(encoding="utf-8"))
        if "scheduler" in content:
            index.write_text(json.dumps({**content, "scheduler": ["diffusers", self.scheduler]}), encoding="utf-8")


def read_configs() -> list[PublicConfig]:
    """Return the entries of the file."""
    return [PublicConfig(**each) for each in json.loads(FILE.read_text(encoding="utf-8"))["configs"]]


def find_config(configs: Sequence[PublicConfig], pipeline: str) -> PublicConfig | None:
    """Return the first config for a pipeline's class, or None."""
    return next((config for config in configs if any(fnmatchcase(pipeline, part) for part in config.pipelines)), None)
