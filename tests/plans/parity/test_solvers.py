"""Every form of every solver that a scheduler of diffusers runs, row by row. test_configs.py also draws other
fields.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest

from tests.plans.parity.config_parity import compare

Case = tuple[str, dict[str, Any], int]


def every(name: str, steps: Sequence[int] = (9,), **choices: Sequence[Any]) -> Iterator[Case]:
    """Return the class with all combinations of values of some fields, in each number of steps."""
    for values, count in product(product(*choices.values()), steps):
        yield name, dict(zip(choices, values, strict=True)), count


KINDS, FINALS, BOTH = ("midpoint", "heun"), ("zero", "sigma_min"), (True, False)
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
DPM = {"solver_type": KINDS, "lower_order_final": BOTH, "final_sigmas_type": FINALS}
K_DIFFUSION = ("Euler", "EulerAncestral", "Heun", "KDPM2", "KDPM2Ancestral", "LMS")
CASES = [
    *every("DDIMScheduler", clip_sample=[False], arguments=[{"eta": eta} for eta in (0.0, 0.3, 1.0)]),
    *every("DDPMScheduler", clip_sample=[False], variance_type=["fixed_small", "fixed_large"]),
    *(case for name in K_DIFFUSION for case in every(f"{name}DiscreteScheduler")),
    # dpmpp_2m, dpmpp_3m, dpm_2m, dpm_3m and their SDEs
    *every("DPMSolverMultistepScheduler", algorithm_type=ALGORITHMS, solver_order=[1, 2, 3], **DPM),
    # dpmpp_singlestep and dpm_singlestep: 7, 8 and 9 evaluations are each remainder of blocks of two and of three
    *every("DPMSolverSinglestepScheduler", [7, 8, 9], algorithm_type=ALGORITHMS[:3], solver_order=[2, 3], **DPM),
    *every(
        "UniPCMultistepScheduler", solver_order=[1, 2, 3, 4], predict_x0=BOTH, **DPM | {"solver_type": ["bh1", "bh2"]}
    ),
    *every("UniPCMultistepScheduler", solver_order=[3], disable_corrector=[[0, 3]]),
    *every(
        "SASolverScheduler",
        [8],
        prediction_type=["epsilon", "v_prediction", "sample"],
        predictor_order=[1, 2, 3, 4],
        corrector_order=[2, 3, 4],
    ),
    *every(
        "SASolverScheduler",
        timestep_spacing=["linspace", "leading", "trailing"],
        lower_order_final=BOTH,
        predictor_order=[2, 3],
        corrector_order=[3],
    ),
    # deis_log_rho, then pndm and f_pndm
    *every("DEISMultistepScheduler", solver_order=[1, 2, 3], lower_order_final=BOTH),
    *every(
        "PNDMScheduler",
        [10],
        skip_prk_steps=BOTH,
        prediction_type=["epsilon", "v_prediction"],
        set_alpha_to_one=BOTH,
        steps_offset=[1],
    ),
    *every("TCDScheduler", [4], arguments=[{"eta": gamma} for gamma in (0.0, 0.3, 1.0)]),
    *every("LCMScheduler", [4], clip_sample=[False]),
    *every("CMStochasticIterativeScheduler", [3], clip_denoised=[False]),
    *every("FlowMatchEulerDiscreteScheduler", [7], shift=[1.0, 3.0], stochastic_sampling=BOTH),
    *every("FlowMatchHeunDiscreteScheduler", [7], shift=[1.0, 3.0]),
]


@pytest.mark.parametrize(("name", "config", "steps"), CASES, ids=lambda value: str(value)[:150])
def test_rows_are_those_of_the_scheduler(name: str, config: dict[str, Any], steps: int) -> None:
    compare(name, config, steps, rows_alone=True)
