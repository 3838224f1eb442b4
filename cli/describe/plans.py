"""Plans, solvers and grids as tables."""

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from fewstep.cli.describe.token_step_table import format_lambda, token_step_table
from fewstep.cli.tables import multiline_cell, table
from fewstep.plans.any_plan import AnyPlan, check_compiled
from fewstep.plans.plan import Plan
from fewstep.plans.tokens.plan import TokenPlan
from fewstep.report.drawing.plan_view import sample_equation, start_equations, step_equations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fewstep.plans.listing import GridListing, PluginListing, SolverListing, TokenSamplerListing
    from fewstep.plans.names.call_syntax import Value


SETS = "description; parameters"
STATE = "S: rows of the state, z: noise"


def solver_table(solvers: "tuple[SolverListing, ...]") -> Table:
    rows = []
    for solver in solvers:
        cost = str(solver.order or ""), str(solver.evaluations), str(solver.rows), "yes" * solver.is_stochastic
        needs = f"; needs {', '.join(solver.given)}" if solver.given else ""
        also = f"; also {', '.join(solver.aliases)}" if solver.aliases else ""
        sets = _parameters(solver.parameters)
        rows.append((solver.name, *cost, escape(solver.paper + needs + also + (sets and f"; {sets}"))))
    caption = "NFE: evaluations of the denoiser per step. K: arrays of a sample's size kept between steps."
    headings = ("name", "order", "NFE", "K", "noise", "paper")
    return table(headings, rows, text=("name", "noise", "paper"), caption=caption)


def grid_table(grids: "tuple[GridListing, ...]") -> Table:
    rows = []
    for grid in grids:
        sets = ", ".join(filter(None, (*(f"{name}=..." for name in grid.needs), _parameters(grid.parameters))))
        also = f" Also {', '.join(grid.aliases)}." if grid.aliases else ""
        usual = " The default." if grid.is_default else ""
        rows.append((grid.name, escape(grid.about + usual + also + (sets and f" {sets}"))))
    return table(headings := ("grid", SETS), rows, text=headings)


def token_sampler_table(samplers: "tuple[TokenSamplerListing, ...]") -> Table:
    each = ((sampler.name, f"{sampler.about} {_parameters(sampler.parameters)}") for sampler in samplers)
    rows = [(name, escape(about.rstrip())) for name, about in each]
    return table(headings := ("token sampler", SETS), rows, text=headings)


def plugin_table(plugins: "tuple[PluginListing, ...]") -> Table:
    rows = []
    for plugin in plugins:
        refused = "; refused: its name is not unique" * plugin.is_refused
        rows.append((escape(plugin.name), plugin.kind, escape(f"{plugin.package}: {plugin.value}{refused}")))
    return table(headings := ("plugin", "kind", "package: entry point (not imported here)"), rows, text=headings)


def _parameters(values: "Mapping[str, Value | None]") -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def step_table(plan: AnyPlan) -> Table:
    return token_step_table(plan) if isinstance(plan, TokenPlan) else _steps(check_compiled(plan))


def _steps(plan: Plan) -> Table:
    rows: list[tuple[RenderableType, ...]] = [("", "start", "", "", "", multiline_cell(start_equations(plan)))]
    for index, step in enumerate(plan.steps):
        place = [f"{step.time:g}", *("" if value is None else f"{value:.4g}" for value in (step.alpha, step.sigma))]
        rows.append((str(index + 1), *place, format_lambda(step.lam), multiline_cell(step_equations(plan, index))))
    rows.append(("", "end", "", "", "", sample_equation(plan)))
    return table(("", "time", "alpha", "sigma", "lambda", STATE), rows, text=(STATE,))
