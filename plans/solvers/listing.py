"""What there is to choose from: every solver with its paper and order, and what its plans cost."""

from dataclasses import dataclass

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan
from fewstep.plans.name import Value, parameters
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.tracer import Solver

BDIA = "Zhang, Lewis, Kleijn 2023, arXiv 2307.10829"
CM = "Song et al. 2023, arXiv 2303.01469"
COMFYUI = "ComfyUI"
CTM = "Kim et al. 2024, arXiv 2310.02279"
DC = "Zhao et al. 2024, arXiv 2409.03755"
DDIM = "Song, Meng, Ermon 2021, arXiv 2010.02502"
DDPM = "Ho, Jain, Abbeel 2020, arXiv 2006.11239"
DEIS = "Zhang & Chen 2023, arXiv 2204.13902"
DPM = "Lu et al. 2022, arXiv 2206.00927"
DPMPP = "Lu et al. 2022, arXiv 2211.01095"
EDICT = "Wallace, Gokul, Naik 2022, arXiv 2211.12446"
EDM = "Karras et al. 2022, arXiv 2206.00364"
LCM = "Luo et al. 2023, arXiv 2310.04378"
MOMENTUM = "Wizadwongsa et al. 2023, arXiv 2307.11118"
PNDM = "Liu et al. 2022, arXiv 2202.09778"
RDDM = "Liu et al. 2024, arXiv 2308.13712"
RESSHIFT = "Yue, Wang, Loy 2023, arXiv 2307.12348"
RFPP = "Lee, Lin, Fanti 2024, arXiv 2405.20320"
RK4 = "Kutta 1901"
SA = "Xue et al. 2023, arXiv 2309.05019"
SCORE_SDE = "Song et al. 2021, arXiv 2011.13456"
SGMSE = "Richter et al. 2023, arXiv 2208.05830"
TCD = "Zheng et al. 2024, arXiv 2402.19159"
UNIPC = "Zhao et al. 2023, arXiv 2302.04867"

# Order of convergence between two times that are neither pure noise nor clean; the tests measure it, also on uneven
# grids. None: solvers of distilled denoisers, which do not converge to a trajectory of the data, and exact inverses.
PAPER_AND_ORDER: dict[Solver, tuple[str, int | None]] = {
    solvers.bdia: (BDIA, 2),
    solvers.bdia_inverse: (BDIA, None),
    solvers.consistency: (CM, None),
    solvers.ctm: (CTM, None),
    solvers.dc_solver: (DC, 3),
    solvers.ddim: (DDIM, 1),
    solvers.ddim_inverse: (DDIM, 1),
    solvers.ddpm: (DDPM, 1),
    solvers.deis_log_rho_2: (DEIS, 2),
    solvers.deis_log_rho_3: (DEIS, 3),
    solvers.deis_t_2: (DEIS, 2),
    solvers.deis_t_3: (DEIS, 3),
    solvers.deis_t_4: (DEIS, 4),
    solvers.dpm_1_sde: (DPMPP, 1),
    solvers.dpm_2: (DPM, 2),
    solvers.dpm_2m: (DPM, 2),
    solvers.dpm_2m_sde: (DPMPP, 2),
    solvers.dpm_3: (DPM, 3),
    solvers.dpm_3m: (DPM, 2),
    solvers.dpm_singlestep_2: (DPM, 2),
    solvers.dpm_singlestep_3: (DPM, 3),
    solvers.dpmpp_2m: (DPMPP, 2),
    solvers.dpmpp_2m_sde: (DPMPP, 2),
    solvers.dpmpp_2s: (DPMPP, 2),
    solvers.dpmpp_3m: (DPMPP, 2),
    solvers.dpmpp_3m_exact: (DPMPP, 3),
    solvers.dpmpp_3m_sde: (DPMPP, 2),
    solvers.dpmpp_3s: (DPMPP, 3),
    solvers.dpmpp_sde: (DPMPP, 2),
    solvers.dpmpp_singlestep_2: (DPMPP, 2),
    solvers.dpmpp_singlestep_3: (DPMPP, 3),
    solvers.edict: (EDICT, 1),
    solvers.edict_inverse: (EDICT, None),
    solvers.edm_euler: (EDM, 1),
    solvers.edm_heun: (EDM, 2),
    solvers.f_pndm: (PNDM, 2),
    solvers.flow_ancestral: (COMFYUI, 1),
    solvers.ghvb: (MOMENTUM, 2),
    solvers.hb: (MOMENTUM, 1),
    solvers.heun: (EDM, 2),
    solvers.ipndm: (DEIS, 2),
    solvers.lcm: (LCM, None),
    solvers.lms_2: (DEIS, 2),
    solvers.lms_3: (DEIS, 3),
    solvers.lms_4: (DEIS, 4),
    solvers.pndm: (PNDM, 2),
    solvers.rddm: (RDDM, 1),
    solvers.renoise: (CM, None),
    solvers.resshift: (RESSHIFT, 1),
    solvers.rfpp: (RFPP, None),
    solvers.rk4: (RK4, 4),
    solvers.s_pndm: (PNDM, 2),
    solvers.sa_solver: (SA, 2),
    solvers.score_sde_pc: (SCORE_SDE, 1),
    solvers.sgmse: (SGMSE, 1),
    solvers.tcd: (TCD, None),
    solvers.unipc_1: (UNIPC, 2),
    solvers.unipc_2: (UNIPC, 3),
    solvers.unipc_3: (UNIPC, 4),
    solvers.unipc_4: (UNIPC, 5),
}

# What solvers are made for that not every denoiser fits.
DENOISERS: dict[Solver, DenoiserFacts] = {
    solvers.rddm: DenoiserFacts(ScheduleSpec("rddm"), "residual", heads=2, towards="y"),
    solvers.resshift: DenoiserFacts(ScheduleSpec("residual-shift"), "sample", towards="y"),
    solvers.sgmse: DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"),
}
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
    """Every solver, in the order of `solvers.__all__`; cost and noise are read off a compiled plan."""
    return tuple(_listed(name) for name in solvers.__all__)


def _listed(name: str) -> SolverListing:
    solver: Solver = getattr(solvers, name)
    many, few = (compile_plan(f"{name}:{steps}", DENOISERS.get(solver, ANY)) for steps in (20, 10))
    paper, order = PAPER_AND_ORDER[solver]
    return SolverListing(
        name=name,
        paper=paper,
        order=order,
        evaluations=round((len(many.steps) - len(few.steps)) / 10),  # neither the first steps nor the last
        is_stochastic=any(step.draws for step in many.steps),
        rows=many.rows,
        parameters={key: each.default for key, each in parameters(solver).items()},
        given=many.given,
        aliases=tuple(alias for alias, text in solvers.ALIASES.items() if text.partition("(")[0] == name),
    )
