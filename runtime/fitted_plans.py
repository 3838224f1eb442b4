"""Find the plans that were fitted to a body, and keep them from running where they do not belong.

`fitted:6` is the plan of 6 evaluations that `fewstep fit` made for this body, at this guidance. Its numbers follow from
the denoiser and from the rounding of the body, so that elsewhere another plan is nearer to the teacher.
"""

import logging
from collections.abc import Sequence

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.file import decode
from fewstep.plans.guidance import COND, UNCOND, Cfg, Guidance, as_guidance, describe, weight_of
from fewstep.plans.plan import Plan, Row, Step
from fewstep.plans.shaping import Rescale, Shaping
from fewstep.runtime.bundle.manifest import Body, FittedPlan
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")

FITTED = "fitted:"  # of a plan's name
NEAR = 0.1  # of a guidance weight: how far another weight may be from the one of the fit
ROUNDING = 1e-9


def find_fitted(
    name: str,
    bundle: Bundle,
    body: Body,
    guidance: float | Guidance | None = None,
    shaping: Shaping | None = None,
    strength: float | None = None,
) -> Plan:
    """The plan `fitted:EVALUATIONS` of a bundle for a body at a guidance.

    A weight of up to NEAR beside the weight of the fit is folded into the fitted numbers. Raises UserError, with the
    command that fits such a plan, where there is none.
    """
    count = name.removeprefix(FITTED)
    if not (count.isascii() and count.isdecimal()) or len(count) > 6:
        raise UserError(f"plan {name!r} does not say how many evaluations", f"write {FITTED}6")
    body_name = next((known for known, each in bundle.manifest.bodies.items() if each == body), "")
    own = [each for each in bundle.manifest.fitted if each.evaluations == int(count) and each.body == body_name]
    plans = [decode(bundle.read(each.file), each.file) for each in own]
    asked = as_guidance(guidance)
    for plan in sorted(plans, key=lambda known: _distance(known.guidance, asked)):
        shapes = {step.shaping for step in plan.steps}
        if plan.strength == strength and shapes == {shaping} and _distance(plan.guidance, asked) <= NEAR + ROUNDING:
            weight = weight_of(asked)
            return plan if weight is None or asked == plan.guidance else reguided(plan, weight)
    raise _none(name, bundle, body_name, asked, shaping, strength, own, plans)


def check_fitted(plan: Plan, bundle: Bundle, body: Body) -> None:
    """Refuse a plan that was fitted to another denoiser; warn of one that was fitted to another body of this one."""
    if plan.fitted is None:
        return
    manifest = bundle.manifest
    if plan.fitted.source != manifest.provenance.source_sha256:
        raise UserError(
            f"plan {plan.name!r} was fitted to another denoiser than {bundle.path} holds",
            f"run {plan.fitted.nominal}, or fit one: fewstep fit {bundle.path} --steps {len(plan.steps)}",
        )
    if manifest.files.get(body.graph.file) == plan.fitted.graph:
        return
    here = next((name for name, each in manifest.bodies.items() if each == body), "another body")
    if here == plan.fitted.body:
        LOG.warning("plan %s was fitted to a former %s: fit it again to have its full gain", plan.name, here)
    else:
        LOG.warning(
            "plan %s was fitted to %s, and runs on %s: its gain may be smaller", plan.name, plan.fitted.body, here
        )


def reguided(plan: Plan, weight: float) -> Plan:
    """A plan of classifier-free guidance at another weight: the difference is added to the share of the conditional
    branch in each prediction, and taken from the unconditional one."""
    form = plan.guidance
    known = weight_of(form)
    if known is None or not isinstance(form, Cfg):
        raise UserError(f"plan {plan.name!r} has no one guidance weight to change", "run it as it was fitted")
    steps = tuple(_leaning(step, weight - known) for step in plan.steps)
    return msgspec.structs.replace(plan, steps=steps, guidance=Cfg(weight))


def _leaning(step: Step, by: float) -> Step:
    """A step whose prediction weighs its branches otherwise: wherever outputs are read, both are."""
    if UNCOND not in step.branches:
        return step
    K = len(step.input)
    cond, uncond = (K + step.branches.index(branch) * step.heads for branch in (COND, UNCOND))

    def lean(row: Row) -> Row:
        numbers = list(row)
        total = numbers[cond] + numbers[uncond]
        numbers[cond] += total * by
        numbers[uncond] -= total * by
        return tuple(numbers)

    shaping_of: Sequence[Row] = step.shaping_of
    if shaping_of:
        alone = 1 if isinstance(step.shaping, Rescale) else len(shaping_of)  # behind it: the conditional output
        shaping_of = [lean(row) if place < alone else row for place, row in enumerate(shaping_of)]
    return msgspec.structs.replace(
        step,
        shaping_of=tuple(shaping_of),
        x0=lean(step.x0),
        update=tuple(lean(row) for row in step.update),
    )


def _distance(fitted: Guidance | None, asked: Guidance | None) -> float:
    """How far a guidance is from the one of a fit, relative to it; infinite where they have no weights to compare."""
    if fitted == asked:
        return 0.0
    known, wanted = weight_of(fitted), weight_of(asked)
    if known is None or wanted is None or known == 0:
        return float("inf")
    return abs(wanted - known) / abs(known)


def _none(
    name: str,
    bundle: Bundle,
    body: str,
    asked: Guidance | None,
    shaping: Shaping | None,
    strength: float | None,
    own: Sequence[FittedPlan],
    plans: Sequence[Plan],
) -> UserError:
    """Why there is no such plan: the nearest thing that the bundle has."""
    count = name.removeprefix(FITTED)
    fit = f"fewstep fit {bundle.path} --steps {count}"
    weight = weight_of(asked)
    fit += f" --guidance {weight:g}" if weight is not None else ""
    if plans:
        have = ", ".join(sorted({describe(plan.guidance) for plan in plans}))
        wanted = f"guidance {describe(asked)}" + ("" if shaping is None else f", {shaping}")
        wanted += "" if strength is None else f", strength {strength:g}"
        what = f"plan {name!r} of {body} is fitted for guidance {have}, not for {wanted}"
        return UserError(what, f"give that guidance, run {own[0].nominal}, or fit it: {fit}")
    counts = sorted({each.evaluations for each in bundle.manifest.fitted if each.body == body})
    others = f"; it has {', '.join(f'{FITTED}{each}' for each in counts)}" if counts else ""
    return UserError(f"{bundle.path} has no plan {name!r} for {body}{others}", f"fit it: {fit}")
