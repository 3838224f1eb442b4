"""Claims about systems that fit a plan to a network: the searches of `fewstep.literature.fits`, and `fewstep fit`."""

import importlib
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from shutil import copytree
from tempfile import mkdtemp

import fewstep.literature.fits as published
from fewstep.fitting.blocks import make_blocks
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.fitting.start_plans import find_best_start
from fewstep.fitting.task import open_fit_task
from fewstep.fitting.teacher_samples import add_teacher_samples
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.rollouts.seeds import FIT_SEEDS
from fewstep.models import ready
from fewstep.plans.file import decode
from fewstep.plans.plan import Plan
from fewstep.runtime import Sampler
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.request import denoiser_facts
from lab.claims.claim import SHIPPED, Way, claims, near, plan
from lab.claims.settings import Setting, W, export_source, sampler_of

STEPS, SEEDS, SCORED = 5, 48, 24  # number of seeds of a search; competing plans are scored on the first ones
JUDGED = 16  # number of seeds on which `fewstep fit` accepts a plan
BEST = f"unipc_2:{STEPS}@arctan(power=1.5)"  # of `fashion_mnist` by fitting.md, where the searches begin too


@lru_cache
def _open_fit(source: str, steps: int, weight: float | None) -> Sampler:
    """Return a sampler of a source in float32 with the plan `fitted:STEPS`."""
    bundle = Path(copytree(export_source(source), Path(mkdtemp()) / "bundle"))
    fit(FitOptions(bundle, steps, guidance=weight, judge_seeds=JUDGED, threads=1))
    return sampler_of(bundle)


def fit_and_sample(s: Setting, steps: int, weight: float | None) -> Floats:
    """Return samples of a plan with `steps` steps that `fewstep fit` fits to the network, with guidance, or with one
    evaluated row per step."""
    return replace(s, sampler=_open_fit(s.source, steps, weight)).sample(f"fitted:{steps}", guidance=weight)


def shipped_fit(s: Setting) -> Floats:
    """Return samples of the fitted plan that comes with `fashion_mnist`."""
    bundle = open_bundle(ready.fashion_mnist())
    (file,) = (each.file for each in bundle.manifest.fitted if each.evaluations == STEPS)
    return s.sample(decode(bundle.read(file), file))


@lru_cache
def _material(bundle: Path) -> FitSetting:
    """Return the input that all searches on a bundle share: the teacher's samples, and the best plan without a fit."""
    task = open_fit_task(FitOptions(bundle, STEPS, guidance=W, seeds=SEEDS, selection_seeds=SCORED, threads=1))
    blocks = add_teacher_samples(task.rolled, task.teacher, make_blocks(task.rolled.reference, FIT_SEEDS[:SEEDS]))
    return FitSetting(
        *(task.rolled, denoiser_facts(task.bundle.manifest), task.guidance),
        nominal=find_best_start(task.rolled, task.starts.nominal, blocks[:2]),
        teacher=task.teacher,
        blocks=blocks,
        groups=task.rolled.sampler.body.groups,
    )


@lru_cache
def _search_plan(bundle: Path, method: str) -> Plan:
    """Return the plan that a module of the literature finds, starting from the best one without a fit."""
    plan: Plan = importlib.import_module(f"{published.__name__}.{method}").fit_plan(_material(bundle))
    return plan


@cache
def of_literature(method: str) -> Way:
    """Return the way of a plan that a module of the literature fits."""
    return lambda s: s.sample(_search_plan(s.sampler.bundle.path, method))


# By PSNR to the teacher: FD to the data of `fewstep fit` is 32 ± 6 lower than that of `unipc_2` in 15 steps, by 128
# seeds, so it rewards what a fit does besides coming nearer to many steps
CLAIMS = [
    claim
    for system, method in (("AutoDiffusion", "auto_diffusion"), ("S³", "solver_search"), ("OLSS", "olss"),
                           ("DC-Solver", "compensation"), ("analytical teleportation", "teleportation"))
    for claim in claims(system, "nearer to many steps in 5 steps", 10, of_literature(method), SHIPPED[:1],
                        {"the best plan": (10, plan(BEST, W)), "fewstep fit": (10, shipped_fit)}, (near(),))
]  # fmt: skip
