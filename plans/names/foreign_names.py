"""Names of solvers in other tools. The message about an unknown name translates them.

Examples are `euler_a`, `DPM++ 2M Karras`, `dpmpp_2m_sde_gpu` and `EulerAncestralDiscreteScheduler`. Other tools often
name a solver and a grid in one word. In a plan's name the grid follows an `@`.
"""

import re

from fewstep.plans import grids
from fewstep.plans.names.namespace import Namespace

WORDS = ("k_", "sample_", "_gpu", "_cfg_pp", "_scheduler", "_discrete", "_multistep")  # do not change the arithmetic
GRIDS = ("karras", "exponential", "beta", "linspace")  # suffixes of a solver's name
ELSEWHERE = {
    "deis": "deis_log_rho_2",
    "dpm2": "dpm_2",
    "dpm2_a": "dpm_2_ancestral",
    "dpm2_ancestral": "dpm_2_ancestral",
    "dpm_2_a": "dpm_2_ancestral",
    "dpm_solver": "dpmpp_2m",
    "dpm_solverpp": "dpmpp_2m",
    "dpmpp_2s_a": "dpmpp_2s_ancestral",
    "dpm_solver_singlestep": "dpmpp_singlestep_2",
    "er_sde_solver": "er_sde",
    "euler_a": "euler_ancestral",
    "flow_match_euler": "flow_euler",
    "flow_match_heun": "flow_heun",
    "k_dpm2": "kdpm_2",
    "k_dpm2_ancestral": "dpm_2_ancestral",
    "lms": "lms_4",
    "res": "res_2m",  # what is left of "res_multistep"
    "unipc": "unipc_2",
    "uni_pc": "unipc_2",
    "uni_pc_bh2": "unipc_2",
    "uni_pc_bh1": "unipc_2_bh1",
}


def translate_name(name: str, solvers: Namespace) -> tuple[str, str] | None:
    """Return (solver, grid) for the name of another tool, with grid "" if it has none. None for an unknown name."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name.replace("++", "pp"))
    plain = re.sub(r"[\s_-]+", "_", text).strip("_").lower()
    grid = next((grid for grid in GRIDS if plain.endswith(f"_{grid}") and grid in grids.__all__), "")
    plain = plain.removesuffix(f"_{grid}") if grid else plain
    for candidate in (plain, _strip_words(plain)):
        solver = ELSEWHERE.get(candidate, candidate)
        if solver in solvers or solver in solvers.aliases:
            return solver, grid
    return None


def _strip_words(plain: str) -> str:
    """Return the name without the words that do not change the arithmetic."""
    for word in WORDS:
        plain = plain.removeprefix(word) if word.endswith("_") else plain.replace(word, "")
    return plain
