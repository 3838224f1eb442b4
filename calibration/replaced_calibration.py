"""Warn of settings of the previous calibration that a new one replaces although the user did not ask for it."""

import logging
import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import pairwise

from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import to_text
from fewstep.plans.shaping import Clip
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.calibrated_plans import read_default_plan

FILES = frozenset({"conditions", "prompts"})  # options of files, which are recorded without their paths
LOG = logging.getLogger("fewstep")


def warn_of_replaced(bundle: Bundle, plan: AnyPlan, given: Collection[str]) -> None:
    """Log a warning if the bundle's present calibration has other values for options that the caller did not give.

    A calibration starts from the defaults of its options, and later runs use the plan, guidance and clip of the newest.
    The warning lists the options that keep the present values. `given` are those of "plan", "guidance", "clip",
    "conditions" and "prompts" that the caller gave. A previous plan that cannot be read causes no warning here:
    commands that run it report it.
    """
    with suppress(UserError):
        previous = read_default_plan(bundle, bundle.manifest.bodies["float32"])
        options = [] if previous is None else list_options_to_keep(previous, plan, given)
        if not FILES & {*given}:
            options += _list_recorded_files(bundle.manifest.provenance.commands)
        if options:
            LOG.warning(
                "this calibration replaces the plan, guidance, clip and conditions of the earlier one; to keep them, "
                "give %s",
                " ".join(options),
            )


def _list_recorded_files(commands: Sequence[str]) -> list[str]:
    """Return the options of files in the last recorded calibration, as "--conditions FILE" or "--conditions FOLDER"; []
    if its command cannot be read."""
    last = next((command for command in reversed(commands) if command.startswith("fewstep calibrate ")), "")
    with suppress(ValueError):  # a quotation mark without its partner
        words = shlex.split(last)
        values = dict(pairwise(words))
        return [f"{flag} {values[flag]}" for flag in sorted(f"--{name}" for name in FILES) if flag in values]
    return []


def list_options_to_keep(previous: AnyPlan, plan: AnyPlan, given: Collection[str]) -> list[str]:
    """Return the options with which a new calibration keeps the plan, guidance and clip of the previous one. Only those
    are listed that the caller did not give and that the new plan would change. A value that no option can express is
    left out."""
    found: list[str] = []
    if "plan" not in given and previous.name != plan.name:
        found.append(f"--plan {shlex.quote(previous.name)}")
    guidance = "1" if previous.guidance is None else to_text(previous.guidance)
    if "guidance" not in given and previous.guidance != plan.guidance and guidance is not None:
        found.append(f"--guidance {guidance}")
    shaping = shaping_of(previous)
    is_changed = "clip" not in given and shaping != shaping_of(plan)
    if is_changed and isinstance(shaping, Clip) and shaping.low == -shaping.high:
        found.append(f"--clip {shaping.high:g}")
    return found
