"""Read a scheduler's configuration as its class does: fill in defaults, drop saved defaults, check values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isinf
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from fewstep.plans.errors import UserError

SIZE_LIMIT = 2**20  # bytes of a file; trained betas of a thousand timesteps have 20 000
FILE = "scheduler_config.json"
ABSENT = "_use_default_values"  # the field that lists fields which were saved as defaults of another class
LARGEST = 10**300  # the largest integer that is accepted as a float

# The values of fields that do not accept all values of their type
CHOICES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "sigma_schedule": ("karras", "exponential"),
    "time_shift_type": ("exponential", "linear"),
    "timestep_type": ("discrete", "continuous"),
    "masking_schedule": ("cosine", "linear"),
    "interpolation_type": ("linear", "log_linear"),
    "variance_type": (
        None,
        "fixed_small",
        "fixed_small_log",
        "fixed_large",
        "fixed_large_log",
        "learned",
        "learned_range",
    ),
    "algorithm_type": (
        "dpmsolver",
        "dpmsolver++",
        "sde-dpmsolver",
        "sde-dpmsolver++",
        "deis",
        "data_prediction",
        "noise_prediction",
    ),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
}


@dataclass(frozen=True)
class SchedulerConfig:
    """All fields of one scheduler class. `source` names the config in errors."""

    source: str
    scheduler: str
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def with_fields(self, **fields: Any) -> "SchedulerConfig":
        """Return the config with other values of some fields."""
        return replace(self, fields={**self.fields, **fields})

    def field_error(self, field: str, why: str, fix: str) -> UserError:
        """Return the error for a value that a plan cannot reproduce."""
        return UserError(f"{self.source}: {field} {self.fields[field]!r:.80} of {self.scheduler}: {why}", fix)


def read_config(config: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (name for error messages, fields) of a scheduler config, given as a file, as the folder of a scheduler or
    a pipeline, or as a mapping."""
    if isinstance(config, Mapping):
        return "scheduler config", dict(config)
    if not isinstance(config, str | PathLike):
        fix = f"give a {FILE}, the folder that contains it, or a dict of its fields"
        raise UserError(f"a scheduler config cannot be {config!r}", fix)
    path = Path(config)
    if path.is_dir():
        inside = [path / FILE, path / "scheduler" / FILE]
        path = next((path for path in inside if path.is_file()), inside[0])
    if not path.is_file():
        raise UserError(f"there is no file {path}", f"give a {FILE}, or the folder that contains it")
    if path.stat().st_size > SIZE_LIMIT:
        raise UserError(f"{path} is larger than {SIZE_LIMIT} bytes", f"give a {FILE}")
    try:
        fields = json.loads(path.read_bytes(), parse_constant=str)  # diffusers writes -Infinity, which JSON lacks
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a scheduler config: {error}", f"give a {FILE}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path} is not a scheduler config: it is not a JSON object", f"give a {FILE}")
    return str(path), fields


def encode_config(fields: Mapping[str, Any]) -> bytes:
    """Return the fields of a scheduler in memory as JSON. Infinite numbers become the texts that `read_config` returns,
    since JSON has no infinity."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: finite(each) for name, each in value.items()}
        return f"{'-' if value < 0 else ''}Infinity" if isinstance(value, float) and isinf(value) else value

    return msgspec.json.format(msgspec.json.encode(finite(fields)))


def resolve(source: str, raw: Mapping[str, Any], scheduler: str, defaults: Mapping[str, Any]) -> SchedulerConfig:
    """Return the class's fields. Fields that were saved as defaults of another class (`_use_default_values`) and fields
    that the class does not have are ignored, as diffusers does when it changes the scheduler of a pipeline."""
    absent = raw.get(ABSENT, [])
    if not isinstance(absent, list | tuple):
        raise UserError(f"{source}: {ABSENT} {absent!r} is not a list of fields", "correct the file")
    fields = dict(defaults)
    for name, default in defaults.items():
        if name in raw and name not in absent:
            fields[name] = _check_field(source, scheduler, name, raw[name], default)
    return SchedulerConfig(source, scheduler, fields)


def _check_field(source: str, scheduler: str, name: str, value: Any, default: Any) -> Any:
    allowed = CHOICES.get(name)
    if allowed is not None:
        fits, wanted = value in allowed, "one of " + ", ".join(str(choice) for choice in allowed)
    elif name in ("trained_betas", "scale_factors"):
        fits = value is None or (isinstance(value, list) and all(map(is_number, value)))
        wanted = "a list of numbers"
    elif isinstance(default, bool):
        fits, wanted = isinstance(value, bool) or value is None, "true or false"
    elif isinstance(default, int):
        fits, wanted = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 10**6, "an integer"
    elif isinstance(default, float) or default is None:
        if value in ("Infinity", "-Infinity"):  # see `read_config`
            value = float(value)
        if value is None and isinstance(default, float) and isinf(default):  # earlier bundles have null for infinity
            value = default
        fits, wanted = is_number(value) or (value is None and default is None), "a number"
    else:
        fits, wanted = isinstance(value, type(default)), f"a {type(default).__name__}"
    if not fits:
        raise UserError(f"{source}: {name} {value!r:.80} of {scheduler} is not {wanted}", "correct the file")
    return bool(value) if isinstance(default, bool) else value


def is_number(value: Any) -> bool:
    """Return True for a number that a float can represent."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)
