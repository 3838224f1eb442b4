"""The fitted plans of a bundle, found by name.

`fitted:6` is the plan of 6 evaluations that `fewstep fit` made at the guidance of the run. It is fitted to the float32
body, and all bodies run it. An older bundle may have plans fitted to single bodies. At another guidance, or with
another denoiser, ordinary plans are closer to the teacher.
"""

from collections.abc import Iterable
from hashlib import sha256

from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, decode_any
from fewstep.plans.guidance import Guidance, as_guidance, describe, weight_of
from fewstep.plans.names.plan_reference import FittedReference, split_plan_name
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Shaping
from fewstep.runtime.bundle.manifest import Body, FittedPlan, Manifest
from fewstep.runtime.bundle.networks import networks, select_network
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.remake_commands import refit_command

NEAR = 0.1 + 1e-9  # largest relative difference between a guidance weight and that of the fit


def find_fitted(
    evaluations: int,
    bundle: Bundle,
    body: Body,
    guidance: float | Guidance | None = None,
    shaping: Shaping | None = None,
    strength: float | None = None,
) -> Plan:
    """Return the plan of a bundle that was fitted with this number of evaluations and this guidance. A plan fitted to
    this body is preferred.

    A plan is also found if the guidance weight differs from that of the fit by at most NEAR; the difference is then
    folded into its coefficients. Raises UserError, with the command that fits a plan, if there is none.
    """
    body_name = next((key for key, each in bundle.manifest.bodies.items() if each == body), "")
    entries = [entry for entry in bundle.manifest.fitted if entry.evaluations == evaluations]
    plans, lost = read_fitted_plans(bundle, [entry for entry in entries if entry.body == body_name])
    if not lost:
        plans += read_fitted_plans(bundle, [entry for entry in entries if entry.body != body_name])[0]
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
    fit = refit_command(bundle.path, bundle.manifest, evaluations, weight_of(form), "fit it: ")
    can_be_fitted = (shaping, strength) == (None, None) and (form is None or weight_of(form) is not None)
    can_be_fitted = can_be_fitted and find_unfittable_plan(bundle) is None
    if plans:
        have = ", ".join(sorted({describe(plan.guidance) for plan in plans}))
        wanted = f"guidance {describe(form)}" + ("" if shaping is None else f", {shaping}")
        wanted += "" if strength is None else f", strength {strength:g}"
        what = f"plan '{FittedReference(evaluations)}' of {body_name} is fitted for guidance {have}, not for {wanted}"
        run = f"run {entries[0].nominal}"
        other = f"{run}, which takes these settings; fewstep fit does not"
        raise UserError(what, f"give that guidance, {run}, or {fit}" if can_be_fitted else other)
    counts = sorted({entry.evaluations for entry in bundle.manifest.fitted})
    has = f"; it has {', '.join(str(FittedReference(count)) for count in counts)}" if counts else ""
    raise UserError(
        f"{bundle.path} has no plan '{FittedReference(evaluations)}' for {body_name}{has}",
        f"run another plan, such as dpmpp_2m:{evaluations}" + f", or {fit}" * can_be_fitted,
    )


def read_fitted_plans(bundle: Bundle, entries: Iterable[FittedPlan]) -> tuple[list[Plan], list[UserError]]:
    """Return the plans whose files can be read, and the errors of those that cannot."""
    plans, lost = [], []
    for entry in entries:
        try:
            plans.append(decode(bundle.read(entry.file), entry.file))
        except UserError as error:
            lost.append(error)
    return plans, lost


def find_unfittable_plan(bundle: Bundle) -> AnyPlan | None:
    """Return the calibrated plan if it has a shaping, else None. `fewstep fit` refuses such a bundle, because fitted
    plans have no shaping. The shaping of a scheduler's plan does not count, because schedulers clip by default. Raises
    UserError if the file of the plan is missing or damaged.
    """
    manifest = bundle.manifest
    name = next((body.plan for body in manifest.bodies.values() if body.plan is not None), None)
    file = manifest.plans.get(name or "")
    if name is None or file is None or split_plan_name(name).is_of_scheduler:
        return None
    plan = decode_any(bundle.read(file), file)
    return None if shaping_of(plan) is None else plan


def graph_of_fit(manifest: Manifest, body: str) -> str | None:
    """Return the SHA-256 hash of a body's last graph. With several networks, it is a hash of the hashes of all. None if
    one of them has no such body."""
    bodies = [select_network(manifest, name).bodies.get(body) for name in networks(manifest)]
    hashes = [manifest.files[body.graph.file] for body in bodies if body is not None]
    if len(hashes) < len(bodies):
        return None
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def _is_for_another(plan: Plan, body: str) -> bool:
    return plan.fitted is None or plan.fitted.body != body


def _distance(fitted: Guidance | None, guidance: Guidance | None) -> float:
    """Return the relative difference between a guidance weight and that of a fit; infinite if one of the two is not
    defined by a single weight."""
    if fitted == guidance:
        return 0.0
    fitted_weight, wanted = weight_of(fitted), weight_of(guidance)
    if fitted_weight is None or wanted is None or fitted_weight == 0:
        return float("inf")
    return abs(wanted - fitted_weight) / abs(fitted_weight)
