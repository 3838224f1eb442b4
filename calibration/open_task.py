"""Open the task of a calibration from its options, and check everything that needs no sampling."""

from math import inf

from fewstep.calibration.failed_bodies import check_usable_targets
from fewstep.calibration.lowering.quantize import select_ops_to_lower
from fewstep.calibration.options import CalibrateOptions, load_targets, trajectory_seeds, warn_of_few
from fewstep.calibration.precision.kept_operations import check_patterns, match_operations
from fewstep.calibration.ranges.methods import lambda_edges
from fewstep.calibration.replaced_calibration import warn_of_replaced
from fewstep.calibration.task import Task
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.measure.rollouts.row_by_row import with_row_by_row_prologue
from fewstep.measure.rollouts.trajectories import max_seeds_per_size
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER, LIGHT
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.lazy_graphs import LazyGraph
from fewstep.runtime.sampling.loading import load_body


def open_tasks(bundle: Bundle, options: CalibrateOptions) -> dict[str, Task]:
    """Open the task of each network, by name. Raises UserError as `open_task` does, and for a pattern of the options
    that matches no operation."""
    tasks = {name: open_task(bundle, options, name) for name in networks(bundle.manifest)}
    check_patterns([task.prepared for task in tasks.values()], options.keep_float)
    return tasks


def open_task(bundle: Bundle, options: CalibrateOptions, network: str = DENOISER) -> Task:
    """Open the task of the options for one network of their bundle. Raises UserError if it cannot be done.

    A target whose engine computes the float32 body wrong is recorded as refused. If no target is left, its error is
    raised.
    """
    all_networks = load_body(bundle, "float32", LazyOnnxRuntime(threads=options.threads))
    plan, bound = options.compile(all_networks.plans), options.parse_bound(bundle)
    sizes, conditions = options.parse_sizes(bundle), options.read_conditions(bundle)
    sampler = all_networks.select_network(network)
    lams = [-inf if step.lam is None else step.lam for step in plan.steps if step.network == network]
    if not lams:
        fix = "give light steps (--plan SOLVER:STEPS+every)" if network == LIGHT else "give a longer plan (--plan)"
        raise UserError(f"plan {plan.name} has no step of the network {network}", fix)
    if isinstance(graph := sampler.network().graph, LazyGraph):
        sampler = sampler.with_network_parts(bundle=graph.bundle)  # a `HashOnceBundle`, which hashes each file once
    prepared = load_stored(sampler.bundle, sampler.body.graph)
    usable = check_usable_targets(load_targets(options), sampler.bundle, prepared, conditions.records)
    targets = tuple(usable.made.values())
    edges, seeds = lambda_edges(lams), trajectory_seeds(options)
    task = Task(
        sampler=with_row_by_row_prologue(sampler),
        prepared=prepared,
        plan=plan,
        targets=targets,
        seeds=seeds,
        edges=() if options.groups == "pooled" else edges,
        operations=tuple(
            op.name for op in select_ops_to_lower(prepared, all(each.scheme.no_floats for each in targets))
        ),
        conditions=conditions.records,
        random=conditions.random,
        sizes=sizes,
        per_size=max_seeds_per_size(seeds, len(sizes)),
        threads=options.threads,
        bound=bound,
        command=lambda names: options.command_for(plan, names),
        refused=usable.failed,
        network=network,
        all_networks=all_networks if len(all_networks.denoiser.networks) > 1 else None,
        no_floats=any(target.scheme.no_floats for target in targets),
        kept_operations=match_operations(prepared, options.keep_float),
    )
    if network == DENOISER:
        given = [
            name for name in ("plan", "guidance", "clip", "conditions", "prompts") if getattr(options, name) is not None
        ]
        warn_of_replaced(sampler.bundle, plan, given)
    warn_of_few(options)
    return task
