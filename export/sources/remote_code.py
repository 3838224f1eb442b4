"""Keep diffusers and transformers from running code of a folder, and from fetching what a config names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fewstep.export.sources.model_files import read_json
from fewstep.plans.errors import UserError

NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # otherwise transformers asks on stdin
CODE, FETCHED = "auto_map", "use_pretrained_backbone"


def refuse_remote_code(home: Path) -> None:
    """Raise UserError if a config of a component names code to run, or weights to fetch."""
    for file in sorted(home.glob("*config*.json")):
        config = read_json(file)
        if found := _find_entry(config, CODE):
            fix = f"remove its {CODE}, if diffusers or transformers has the class; code from a folder is never run"
            raise UserError(f"{file} names code for its component ({CODE}: {found})", fix)
        if _find_entry(config, FETCHED):
            raise UserError(f"{file} names weights outside the folder ({FETCHED})", f"set {FETCHED} to false in it")


def _find_entry(config: Any, key: str) -> Any:
    """Return the first true value of a key in nested JSON, or None."""
    if isinstance(config, dict) and config.get(key):
        return config[key]
    nested = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return next((found for folder in nested if (found := _find_entry(folder, key))), None)


@contextmanager
def stay_local() -> Iterator[None]:
    """While active, keep transformers and huggingface_hub from downloading anything and from running code in a folder.
    They then refuse such code instead of asking on stdin."""
    import huggingface_hub
    from transformers import dynamic_module_utils

    with (
        patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        patch.object(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0),  # seconds that transformers waits for an answer
    ):
        yield
