"""Warn of settings of the previous calibration that a new one replaces although the user did not ask for it."""

import logging
import shlex
from collections.abc import Collection
from contextlib import suppress

from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import to_text
from fewstep.plans.shaping import Clip
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.calibrated_plans import own_plan

LOG = logging.getLogger("fewstep")


def warn_of_replaced(bundle: Bundle, plan: AnyPlan, given: Collection[str]) -> None:
    """Warn if options that the caller left out had other values in the calibration that the bundle has.

    A calibration starts from the defaults of its options, and later runs take their plan, guidance and clip from the
    newest. The warning gives the options that repeat the earlier values. `given` are the names of the options that the
    caller gave, of "plan", "guidance" and "clip". A previous plan that cannot be read causes no warning here: verbs
    that run it report it.
    """
    with suppress(UserError):
        former = own_plan(bundle, bundle.manifest.bodies["float32"])
        options = () if former is None else list_options_to_keep(former, plan, given)
        if options:
            LOG.warning(
                "this calibration replaces the plan, guidance and clip of the earlier one; to keep them, give %s",
                " ".join(options),
            )


def list_options_to_keep(former: AnyPlan, plan: AnyPlan, given: Collection[str]) -> list[str]:
    """Return the options that keep the plan, guidance and clip of the previous calibration, for those that the caller
    did not give and that the new plan changes. A value that no option can express is left out."""
    found: list[str] = []
    if "plan" not in given and former.name != plan.name:
        found.append(f"--plan {shlex.quote(former.name)}")
    guidance = to_text(former.guidance)
    if "guidance" not in given and former.guidance != plan.guidance and guidance is not None:
        found.append(f"--guidance {guidance}")
    shaping = shaping_of(former)
    is_changed = "clip" not in given and shaping != shaping_of(plan)
    if is_changed and isinstance(shaping, Clip) and shaping.low == -shaping.high:
        found.append(f"--clip {shaping.high:g}")
    return found
