"""The plans that were fitted to a body, found by their names.

`fitted:6` is the plan of 6 evaluations that `fewstep fit` made at this guidance. It fits float32, and all bodies run
it; a bundle of before may have one of the body's own. For another denoiser or guidance other plans are nearer to the
teacher.
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

FITTED = f"{SOLVER}:"  # of a plan's name
LARGEST = 64  # evaluations: beyond, a plan is its own teacher
NEAR = 0.1 + 1e-9  # of a guidance weight: how far another weight may be from the one of the fit


def find_fitted(
    name: str,
    bundle: Bundle,
    body: Body,
    guidance: float | Guidance | None = None,
    shaping: Shaping | None = None,
    strength: float | None = None,
) -> Plan:
    """The plan `fitted:EVALUATIONS` of a bundle for a body at a guidance: the body's own, or else another body's.

    A weight that differs from the fit's by NEAR or less is folded into the fitted numbers. Raises UserError, with the
    command that fits such a plan, where there is none.
    """
    count, at, _ = name.removeprefix(FITTED).partition("@")
    if not (count.isascii() and count.isdecimal()) or len(count) > 6:
        raise UserError(f"plan {name!r} does not say how many evaluations", f"write {FITTED}6")
    if at:
        raise UserError(f"plan {name!r} names a grid, and a fitted plan has none to choose", f"write {FITTED}{count}")
    if not 0 < int(count) <= LARGEST:
        raise UserError(f"plan {name!r} has {int(count)} evaluations", f"fitted plans have 1 to {LARGEST}")
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
                change_guidance_weight,  # and all transforms: for this alone
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
        raise UserError(what, f"give that guidance, {run}, or {fit}" if can_be_fitted else f"no fit has these: {run}")
    counts = sorted({each.evaluations for each in bundle.manifest.fitted})
    has = f"; it has {', '.join(f'{FITTED}{each}' for each in counts)}" if counts else ""
    raise UserError(
        f"{bundle.path} has no plan {name!r} for {body_name}{has}",
        f"run another plan, as dpmpp_2m:{count}" + f", or {fit}" * can_be_fitted,
    )


def read_fitted_plans(bundle: Bundle, entries: Iterable[FittedPlan]) -> tuple[list[Plan], list[UserError]]:
    """The plans whose files can be read, and the errors of the others."""
    plans, lost = [], []
    for each in entries:
        try:
            plans.append(decode(bundle.read(each.file), each.file))
        except UserError as error:
            lost.append(error)
    return plans, lost


def graph_of_fit(manifest: Manifest, body: str) -> str | None:
    """The SHA-256 of a body's last graph, or of all networks' last ones; None where one of them lacks the body."""
    bodies = [select_network(manifest, name).bodies.get(body) for name in networks(manifest)]
    hashes = [manifest.files[each.graph.file] for each in bodies if each is not None]
    if len(hashes) < len(bodies):
        return None
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def _is_for_another(plan: Plan, body: str) -> bool:
    return plan.fitted is None or plan.fitted.body != body


def _distance(fitted: Guidance | None, guidance: Guidance | None) -> float:
    """The distance of a guidance from a fit's, relative to it; infinite where they have no weights to compare."""
    if fitted == guidance:
        return 0.0
    fitted_weight, wanted = weight_of(fitted), weight_of(guidance)
    if fitted_weight is None or wanted is None or fitted_weight == 0:
        return float("inf")
    return abs(wanted - fitted_weight) / abs(fitted_weight)
