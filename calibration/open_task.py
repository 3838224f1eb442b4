"""Open the tasks of a calibration from its options, and check everything that needs no sampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from fewstep.calibration.failed_bodies import check_usable_targets
from fewstep.calibration.lowering.quantize import select_ops_to_lower
from fewstep.calibration.options import CalibrateOptions, CheckedOptions, ChosenSizes, refuse_bound, warn_of_few
from fewstep.calibration.precision.kept_operations import check_patterns, match_operations
from fewstep.calibration.ranges.methods import lambda_edges
from fewstep.calibration.replaced_calibration import warn_of_replaced
from fewstep.calibration.task import Task, load_task
from fewstep.measure.judges.judge import Judge
from fewstep.measure.rollouts.conditions_file import GivenConditions
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.plan import LIGHT
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.loading import load_body
from fewstep.runtime.sampling.sampler import Sampler


@dataclass(frozen=True)
class _Request:
    """What the tasks of all networks have in common: the options, read once for their bundle.

    checked: the targets, the bound and the seeds. all_networks: the sampler of the float32 bodies. held_out: the
    conditions that judge. is_pooled: whether all steps have one range group. is_estimate: whether only an estimate is
    wanted. `Task` describes the rest.
    """

    checked: CheckedOptions
    all_networks: Sampler
    plan: AnyPlan
    conditions: GivenConditions
    held_out: GivenConditions
    sizes: ChosenSizes
    threads: int
    is_pooled: bool
    keep_float: tuple[str, ...]
    command: Callable[[Sequence[str]], str]
    is_estimate: bool
    judge: Judge | None


def open_tasks(
    bundle: Bundle, options: CalibrateOptions, checked: CheckedOptions, is_estimate: bool = True
) -> dict[str, Task]:
    """Open the task of each network, by name. Raises UserError if one cannot be done, and for a pattern of the options
    that matches no operation.

    checked: the result of `check_options`. is_estimate: whether only an estimate is wanted. Otherwise, the errors of
        refused targets are stored in the bundle, so that later errors can say why a body is missing.

    A target is refused if its engine computes the float32 body incorrectly. If no target is left, its error is raised.
    """
    request = _read_request(bundle, options, checked, is_estimate)
    tasks = {name: _open_task(request, name) for name in networks(bundle.manifest)}
    check_patterns([task.prepared for task in tasks.values()], request.keep_float)
    given = ("plan", "guidance", "clip", "conditions", "prompts")
    warn_of_replaced(bundle, request.plan, [name for name in given if getattr(options, name) is not None])
    return tasks


def _read_request(bundle: Bundle, options: CalibrateOptions, checked: CheckedOptions, is_estimate: bool) -> _Request:
    all_networks = load_body(bundle, "float32", LazyOnnxRuntime(threads=options.threads))
    plan = options.compile(all_networks.plans)
    if checked.bound is not None:
        refuse_bound(bundle)
    conditions, held_out = options.read_conditions(bundle)
    sizes = options.parse_sizes(bundle, conditions)
    warn_of_few(options)
    return _Request(
        checked=checked,
        all_networks=all_networks,
        plan=plan,
        conditions=conditions,
        held_out=held_out,
        sizes=sizes,
        threads=options.threads,
        is_pooled=options.groups == "pooled",
        keep_float=options.keep_float,
        command=lambda names: options.command_for(plan, names),
        is_estimate=is_estimate,
        judge=options.open_judge(bundle),
    )


def _open_task(request: _Request, network: str) -> Task:
    """Prepare the calibration of one network of a bundle. Raises UserError if the plan has no step for this network."""
    plan, conditions, seeds = request.plan, request.conditions, request.checked.seeds
    lams = [-inf if step.lam is None else step.lam for step in plan.steps if step.network == network]
    if not lams:
        fix = "give light steps (--plan SOLVER:STEPS+every)" if network == LIGHT else "give a longer plan (--plan)"
        raise UserError(f"plan {plan.name} has no step of the network {network}", fix)
    task = load_task(request.all_networks, network, plan, () if request.is_pooled else lambda_edges(lams))
    prepared, bundle = task.prepared, task.sampler.bundle
    usable = check_usable_targets(request.checked.targets, bundle, prepared, conditions.records, request.is_estimate)
    targets = tuple(usable.made.values())
    lowered = select_ops_to_lower(prepared, all(target.scheme.no_floats for target in targets))
    return replace(
        task,
        targets=targets,
        seeds=seeds,
        operations=tuple(op.name for op in lowered),
        conditions=conditions.records,
        prompts=conditions.prompts,
        held_out=request.held_out,
        random=conditions.random,
        fixed_conditions=conditions.fixed,
        sizes=request.sizes.sizes,
        elements=request.sizes.elements,
        threads=request.threads,
        bound=request.checked.bound,
        command=request.command,
        refused=usable.failed,
        no_floats=any(target.scheme.no_floats for target in targets),
        weights_only=any(target.scheme.weight_bits is not None for target in targets),
        kept_operations=match_operations(prepared, request.keep_float),
        judge=request.judge,
    )
