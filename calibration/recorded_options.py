"""The options of the calibration that made a body, parsed from the command that is recorded in the bundle."""

from typing import Any

from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.remake_commands import read_command_options

LISTS = ("target", "keep_float", "size")
WORDS = ("groups", "half")
CRITERIA = ("quality", "speed", "keep_float")


def find_recorded_options(manifest: Manifest, body: Body) -> dict[str, Any]:
    """Return the fields of `CalibrateOptions` that affect a body and cannot be read from the rest of its bundle:
    targets, operations kept in float, float type, groups and sizes. Empty if no command for the target of the body is
    recorded.
    """
    options = _options_of_body(manifest, body)
    lists = {name: tuple(options[name].split(",")) for name in LISTS if name in options}
    return lists | {name: options[name] for name in WORDS if name in options}


def find_float_criteria(manifest: Manifest, body: Body) -> str:
    """Return the options of the recorded command that keep operations in float, as "--quality 60dB"; "" without any."""
    options = _options_of_body(manifest, body)
    return " and ".join(f"--{name.replace('_', '-')} {options[name]}" for name in CRITERIA if name in options)


def _options_of_body(manifest: Manifest, body: Body) -> dict[str, str]:
    """Return the options of the last recorded calibration for the target of a body, by name; empty if none is
    recorded."""
    for command in reversed(manifest.provenance.commands):
        options = read_command_options(command)
        if command.startswith("fewstep calibrate ") and body.target in options.get("target", "").split(","):
            return options
    return {}
