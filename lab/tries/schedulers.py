"""Random configs of diffusers' schedulers: samples of the plan against those of the scheduler, from the same noise."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch

from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.runtime.sampling.execute import execute, finish
from lab.tries.attempt import Attempt, check_close

SHAPE = (2, 3, 4, 4)
CLASSES: dict[str, dict[str, tuple[Any, ...]]] = {
    "DDIMScheduler": {
        "clip_sample": (True, False),
        "set_alpha_to_one": (True, False),
        "steps_offset": (0, 1),
        "rescale_betas_zero_snr": (True, False),
    },
    "DDPMScheduler": {"clip_sample": (True, False), "variance_type": ("fixed_small", "fixed_large")},
    "EulerDiscreteScheduler": {"use_karras_sigmas": (True, False), "steps_offset": (0, 1)},
    "EulerAncestralDiscreteScheduler": {"steps_offset": (0, 1)},
    "HeunDiscreteScheduler": {"use_karras_sigmas": (True, False)},
    "KDPM2DiscreteScheduler": {"use_karras_sigmas": (True, False)},
    "DPMSolverMultistepScheduler": {
        "solver_order": (1, 2, 3),
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
        "use_karras_sigmas": (True, False),
        "lower_order_final": (True, False),
        "euler_at_final": (True, False),
    },
    "DPMSolverSinglestepScheduler": {"solver_order": (1, 2, 3), "use_karras_sigmas": (True, False)},
    "UniPCMultistepScheduler": {
        "solver_order": (1, 2, 3),
        "solver_type": ("bh1", "bh2"),
        "use_karras_sigmas": (True, False),
    },
    "DEISMultistepScheduler": {"solver_order": (1, 2, 3), "use_karras_sigmas": (True, False)},
    "PNDMScheduler": {"skip_prk_steps": (True,), "set_alpha_to_one": (True, False), "steps_offset": (0, 1)},
    "LCMScheduler": {"original_inference_steps": (50, 40), "clip_sample": (True, False)},
    "TCDScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {
        "shift": (1.0, 3.0, 0.6),
        "use_karras_sigmas": (False,),
        "invert_sigmas": (False,),
    },
    "FlowMatchHeunDiscreteScheduler": {"shift": (1.0, 3.0)},
}
COMMON = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "num_train_timesteps": (1000, 600, 100),
    "beta_end": (0.02, 0.012, 0.01),
}


def network(x: np.ndarray, time: float) -> np.ndarray:
    return np.tanh(0.7 * x + 0.3 * np.cos(time / 170)) * 0.9 + 0.05 * x


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    for _ in range(number):
        name = str(random.choice(list(CLASSES)))
        options = dict(CLASSES[name]) | ({} if name.startswith("Flow") else COMMON)
        config = {key: values[random.integers(len(values))] for key, values in options.items() if random.random() < 0.6}
        steps, seed = int(random.choice([1, 2, 3, 4, 6, 9, 15, 20])), int(random.integers(2**31))

        def run(name=name, config=config, steps=steps, seed=seed) -> None:  # type: ignore[no-untyped-def]
            made = getattr(diffusers, name)
            try:
                scheduler = made(**config)
                scheduler.set_timesteps(steps)
            except Exception:
                return  # diffusers refuses it itself
            plan = plan_from_scheduler_config({**scheduler.config, "_class_name": name}, steps=steps)
            noise = np.random.default_rng(seed).standard_normal((4 * steps + 4, *SHAPE)).astype(np.float32)
            drawn = iter(torch.from_numpy(noise[1:]))
            module = import_module(made.__module__)
            with patch.object(module, "randn_tensor", lambda *a, **k: next(drawn), create=True):
                x = torch.from_numpy(noise[0]).double() * getattr(scheduler, "init_noise_sigma", 1.0)
                for time in scheduler.timesteps:
                    scaled = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
                    output = torch.from_numpy(network(scaled.numpy(), float(time)))
                    try:
                        x = scheduler.step(output, time, x, return_dict=False)[0].double()
                    except (IndexError, AssertionError):  # of diffusers, for some grids
                        return
            right = x.numpy()
            if not np.isfinite(right).all():
                return

            def call(index, step, u):  # type: ignore[no-untyped-def]
                return [network(u, step.time)]

            own = finish(plan, execute(plan, call, lambda n: noise[n].astype(np.float64), np.float64), np.float64)
            check_close(own, right, 1e-3)

        yield Attempt(f"{name} {config} in {steps} steps", run, may_refuse=True)
