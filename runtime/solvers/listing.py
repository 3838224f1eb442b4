"""What there is to choose from: every solver with its paper and order, and what its plans cost."""

from dataclasses import dataclass

from fewstep.runtime import solvers
from fewstep.runtime.manifest import ScheduleSpec
from fewstep.runtime.plan import Denoising, Solver, compile_plan

DDIM = "Song, Meng, Ermon 2021, arXiv 2010.02502"
DDPM = "Ho, Jain, Abbeel 2020, arXiv 2006.11239"
DEIS = "Zhang & Chen 2023, arXiv 2204.13902"
DPM = "Lu et al. 2022, arXiv 2206.00927"
DPMPP = "Lu et al. 2022, arXiv 2211.01095"
EDM = "Karras et al. 2022, arXiv 2206.00364"
UNIPC = "Zhao et al. 2023, arXiv 2302.04867"

# Order of convergence between two times that are neither pure noise nor clean; the tests measure it, also on uneven
# grids.
PAPER_AND_ORDER: dict[Solver, tuple[str, int]] = {
    solvers.ddim: (DDIM, 1),
    solvers.ddpm: (DDPM, 1),
    solvers.deis_log_rho_2: (DEIS, 2),
    solvers.deis_log_rho_3: (DEIS, 3),
    solvers.deis_t_2: (DEIS, 2),
    solvers.deis_t_3: (DEIS, 3),
    solvers.deis_t_4: (DEIS, 4),
    solvers.dpm_2: (DPM, 2),
    solvers.dpm_3: (DPM, 3),
    solvers.dpmpp_2m: (DPMPP, 2),
    solvers.dpmpp_2m_sde: (DPMPP, 2),
    solvers.dpmpp_2s: (DPMPP, 2),
    solvers.dpmpp_3m: (DPMPP, 2),
    solvers.dpmpp_3m_exact: (DPMPP, 3),
    solvers.heun: (EDM, 2),
    solvers.ipndm: (DEIS, 2),
    solvers.lms_2: (DEIS, 2),
    solvers.lms_3: (DEIS, 3),
    solvers.lms_4: (DEIS, 4),
    solvers.unipc_1: (UNIPC, 2),
    solvers.unipc_2: (UNIPC, 3),
    solvers.unipc_2_bh1: (UNIPC, 3),
    solvers.unipc_3: (UNIPC, 4),
}


@dataclass(frozen=True)
class Listed:
    """`evaluations` of the denoiser in an inner step; `rows` K of the state, each the size of a sample."""

    name: str
    paper: str
    order: int
    evaluations: int
    is_stochastic: bool
    rows: int


def listing() -> tuple[Listed, ...]:
    """Every solver, in the order of `solvers.__all__`; cost and noise are read off a compiled plan."""
    return tuple(_listed(name) for name in solvers.__all__)


def _listed(name: str) -> Listed:
    steps = 10
    plan = compile_plan(f"{name}:{steps}", Denoising(ScheduleSpec("linear"), "sample"))
    paper, order = PAPER_AND_ORDER[getattr(solvers, name)]
    return Listed(
        name=name,
        paper=paper,
        order=order,
        evaluations=-(-len(plan.steps) // steps),  # rounded up: the step to the clean end may take one
        is_stochastic=any(step.draws for step in plan.steps),
        rows=plan.rows,
    )
