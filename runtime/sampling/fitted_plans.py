"""The fitted plans of a bundle, found by name.

`fitted:6` is the plan of 6 evaluations that `fewstep fit` made at this guidance. It is fitted to the float32 body, and
all bodies run it. An older bundle may have plans fitted to single bodies. At another guidance, or with another
denoiser, ordinary plans are closer to the teacher.
"""

from collections.abc import Iterable
from hashlib import sha256

from fewstep.plans.errors import UserError
from fewstep.plans.file import decode
from fewstep.plans.guidance import Guidance, as_guidance, describe, weight_of
from fewstep.plans.plan import FITTED as SOLVER
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Shaping
from fewstep.runtime.bundle.fit_command import refit_command
from fewstep.runtime.bundle.manifest import Body, FittedPlan, Manifest
from fewstep.runtime.bundle.networks import networks, select_network
from fewstep.runtime.bundle.reading import Bundle

FITTED = f"{SOLVER}:"  # prefix of a plan's name
LARGEST = 64  # evaluations; a plan with more would be its own teacher
NEAR = 0.1 + 1e-9  # largest relative difference between a guidance weight and that of the fit


def find_fitted(
    name: str,
    bundle: Bundle,
    body: Body,
    guidance: float | Guidance | None = None,
    shaping: Shaping | None = None,
    strength: float | None = None,
) -> Plan:
    """Return the plan `fitted:EVALUATIONS` of a bundle at a guidance. A plan fitted to this body is preferred.

    A guidance weight within NEAR of the fit's is folded into the fitted numbers. If there is no such plan, raises
    UserError with the command that fits one.
    """
    count, at, _ = name.removeprefix(FITTED).partition("@")
    if not (count.isascii() and count.isdecimal()) or len(count) > 6:
        raise UserError(f"plan {name!r} has no number of evaluations", f"write {FITTED}6")
    if at:
        raise UserError(f"plan {name!r} names a grid, but a fitted plan has its own", f"write {FITTED}{count}")
    if not 0 < int(count) <= LARGEST:
        raise UserError(f"plan {name!r} has {int(count)} evaluations", f"choose 1 to {LARGEST}")
    body_name = next((key for key, each in bundle.manifest.bodies.items() if each == body), "")
    entries = [each for each in bundle.manifest.fitted if each.evaluations == int(count)]
    plans, lost = read_fitted_plans(bundle, [each for each in entries if each.body == body_name])
    if not lost:
        plans += read_fitted_plans(bundle, [each for each in entries if each.body != body_name])[0]
    form = as_guidance(guidance)
    for plan in sorted(plans, key=lambda each: (_is_for_another(each, body_name), _distance(each.guidance, form))):
        shapes = {step.shaping for step in plan.steps}
        if plan.strength == strength and shapes == {shaping} and _distance(plan.guidance, form) <= NEAR:
            from fewstep.plans.transforms.guidance_weight import (
                change_guidance_weight,  # loads all transforms, which are needed only here
            )

            weight = weight_of(form)
            return plan if weight is None or form == plan.guidance else change_guidance_weight(plan, weight)
    if lost:
        raise lost[0]
    fit = refit_command(bundle.path, bundle.manifest, int(count), weight_of(form), "fit it: ")
    can_be_fitted = (shaping, strength) == (None, None) and (form is None or weight_of(form) is not None)
    if plans:
        have = ", ".join(sorted({describe(plan.guidance) for plan in plans}))
        wanted = f"guidance {describe(form)}" + ("" if shaping is None else f", {shaping}")
        wanted += "" if strength is None else f", strength {strength:g}"
        what = f"plan {name!r} of {body_name} is fitted for guidance {have}, not for {wanted}"
        run = f"run {entries[0].nominal}"
        other = f"{run}, which takes these settings; fewstep fit does not"
        raise UserError(what, f"give that guidance, {run}, or {fit}" if can_be_fitted else other)
    counts = sorted({each.evaluations for each in bundle.manifest.fitted})
    has = f"; it has {', '.join(f'{FITTED}{each}' for each in counts)}" if counts else ""
    raise UserError(
        f"{bundle.path} has no plan {name!r} for {body_name}{has}",
        f"run another plan, such as dpmpp_2m:{count}" + f", or {fit}" * can_be_fitted,
    )


def read_fitted_plans(bundle: Bundle, entries: Iterable[FittedPlan]) -> tuple[list[Plan], list[UserError]]:
    """Return the plans whose files can be read, and the errors of the others."""
    plans, lost = [], []
    for each in entries:
        try:
            plans.append(decode(bundle.read(each.file), each.file))
        except UserError as error:
            lost.append(error)
    return plans, lost


def graph_of_fit(manifest: Manifest, body: str) -> str | None:
    """Return the SHA-256 of a body's last graph, over all networks. None if a network has no such body."""
    bodies = [select_network(manifest, name).bodies.get(body) for name in networks(manifest)]
    hashes = [manifest.files[each.graph.file] for each in bodies if each is not None]
    if len(hashes) < len(bodies):
        return None
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def _is_for_another(plan: Plan, body: str) -> bool:
    return plan.fitted is None or plan.fitted.body != body


def _distance(fitted: Guidance | None, guidance: Guidance | None) -> float:
    """Return the relative difference of a guidance weight from a fit's; infinite if one of them has no weight."""
    if fitted == guidance:
        return 0.0
    fitted_weight, wanted = weight_of(fitted), weight_of(guidance)
    if fitted_weight is None or wanted is None or fitted_weight == 0:
        return float("inf")
    return abs(wanted - fitted_weight) / abs(fitted_weight)
