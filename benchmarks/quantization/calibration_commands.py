"""The trajectories on which a user's bundle was calibrated, from its recorded commands."""

import re
from collections.abc import Collection

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest

# What tools cannot be given alike, or get another way than ours had it.
OF_ITS_OWN = ("--conditions", "--prompts", "--size", "--quality", "--speed", "--inputs")


def seeds_of_calibration(manifest: Manifest, targets: Collection[str], has_conditions: bool = False) -> range:
    """Return the seeds of the trajectories on which a bundle's bodies for `targets` were calibrated, from its
    recorded commands.

    Raises UserError unless one command made all of them from seeds only. `has_conditions`: and from conditions of
    the caller, who passes them to each tool.
    """
    if manifest.text is not None and not has_conditions:  # it is calibrated on prompts of its own
        raise UserError(f"{manifest.name} takes prompts", "calibrate it with --conditions FILE, and pass the same file")
    commands = [command for command in manifest.provenance.commands if command.startswith("fewstep calibrate ")]
    made = {target: [each for each in commands if target in _option(each, "target").split(",")] for target in targets}
    last = {each[-1] if each else "" for each in made.values()}
    again = f"fewstep calibrate BUNDLE --target {','.join(targets)}"
    if len(last) != 1 or "" in last:
        raise UserError(f"{manifest.name} was not calibrated for {', '.join(targets)} by one command", again)
    (command,) = last
    shared = ("--conditions",) * has_conditions
    if own := [option for option in OF_ITS_OWN if f" {option} " in command and option not in shared]:
        fix = "give that file to --conditions here" if own[0] == "--conditions" else again
        raise UserError(f"{manifest.name} was calibrated with {own[0]}, which other tools have no like of", fix)
    if has_conditions and " --conditions " not in command:
        raise UserError(f"{manifest.name} was calibrated without --conditions", f"{again} --conditions FILE")
    first = int(_option(command, "seed"))
    return range(first, first + int(_option(command, "trajectories")))


def _option(command: str, name: str) -> str:
    """The value of an option in a command that calibrate recorded; "" if it has none."""
    found = re.search(rf" --{name} (\S+)", command)
    return found[1] if found else ""
