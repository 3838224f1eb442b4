"""plan_ways.py: each line runs the solver that it names."""

from types import SimpleNamespace
from typing import Any

from lab.claims.plan_ways import CLAIMS


def test_lines_of_mr_sampler_run_its_second_order_steps_without_the_midpoint_rule() -> None:
    """These are the published ones by test_mr_samplers_second_order_steps_are_the_usual_ones."""
    setting: Any = SimpleNamespace(sample=lambda plan, guidance: plan)
    ran = {(claim.system, claim.ours(setting)) for claim in CLAIMS if claim.system.startswith("MRS")}
    solvers = {"MRS": "dpmpp_2m(midpoint=False)", "MRS of the SDE": "dpmpp_2m_sde(midpoint=False)"}
    assert ran == {(system, f"{solver}:{few}") for system, solver in solvers.items() for few in (5, 6)}
