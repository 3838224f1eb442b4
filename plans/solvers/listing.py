"""What there is to choose from: every solver with its paper and order, and what its plans cost."""

from dataclasses import dataclass

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan
from fewstep.plans.name import Value, parameters
from fewstep.plans.solvers.published import facts_of
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.tracer import Solver

ANY = DenoiserFacts(ScheduleSpec("linear"), "sample")


@dataclass(frozen=True)
class SolverListing:
    """`evaluations` of the denoiser in an inner step; `rows` K of the state, each the size of a sample; `parameters`
    with their defaults, by name; `given` tensors that the caller brings; `aliases` are plan names of the literature."""

    name: str
    paper: str
    order: int | None
    evaluations: int
    is_stochastic: bool
    rows: int
    parameters: dict[str, Value]
    given: tuple[str, ...]
    aliases: tuple[str, ...]


def listing() -> tuple[SolverListing, ...]:
    """Every solver, in the order of `solvers.__all__`; evaluations and noise are read off a compiled plan."""
    return tuple(_listed(name) for name in solvers.__all__)


def _listed(name: str) -> SolverListing:
    solver: Solver = getattr(solvers, name)
    facts = facts_of(solver)
    many, few = (compile_plan(f"{name}:{steps}", facts.made_for or ANY) for steps in (20, 10))
    return SolverListing(
        name=name,
        paper=facts.paper,
        order=facts.order,
        evaluations=round((len(many.steps) - len(few.steps)) / 10),  # neither the first steps nor the last
        is_stochastic=any(step.draws for step in many.steps),
        rows=facts.rows,
        parameters={key: each.default for key, each in parameters(solver).items()},
        given=many.given,
        aliases=tuple(alias for alias, text in solvers.ALIASES.items() if text.partition("(")[0] == name),
    )
