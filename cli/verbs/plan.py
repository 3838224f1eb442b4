"""`fewstep plan`: list solvers and grids, or show a plan as a table or a plot."""

from pathlib import Path

import msgspec

from fewstep.cli.describe.plans import grid_table, plugin_table, solver_table, step_table, token_sampler_table
from fewstep.cli.outcome import Outcome
from fewstep.graph.files.output_files import write_atomic
from fewstep.plans.any_plan import AnyPlan, check_compiled, plan_headline
from fewstep.plans.errors import UserError
from fewstep.report.drawing.plan_view import PlanOptions
from fewstep.runtime.progress import Progress

EXAMPLE = "The name of a plan: SOLVER:STEPS@GRID, as ddim(eta=0.5):10@karras(rho=5)"


def verb(options: PlanOptions, progress: Progress) -> Outcome:
    questions = [options.list, options.show is not None, options.plot is not None]
    if sum(questions) > 1:
        raise UserError("--list, --show and --plot cannot be combined", "give one of them")
    if options.show is not None:
        plan = options.compile(options.show)
        return Outcome(plan, (plan_headline(plan), step_table(plan)))
    if options.plot is not None:
        return _draw(options.compile(options.plot), options.output)
    from fewstep.plans.listing import grid_listings, plugin_listings, solver_listings, token_sampler_listings

    solvers, grids, samplers, plugins = solver_listings(), grid_listings(), token_sampler_listings(), plugin_listings()
    value = {"solvers": solvers, "grids": grids, "token_samplers": samplers, "plugins": plugins}
    of_packages = (plugin_table(plugins),) if plugins else ()
    return Outcome(
        value, (solver_table(solvers), grid_table(grids), token_sampler_table(samplers), *of_packages, EXAMPLE)
    )


def _draw(plan: AnyPlan, output: Path) -> Outcome:
    from fewstep.report.drawing.plan_plot import draw_plan

    plan = check_compiled(plan, "print its table: --show")
    if output.suffix != ".svg":
        raise UserError(f"cannot draw into {output}", "name a file that ends in .svg")
    write_atomic(output, draw_plan(plan).encode())
    return Outcome({"output": output, "plan": msgspec.to_builtins(plan)}, (f"{output}: {plan_headline(plan)}",))
