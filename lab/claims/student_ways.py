"""Claims about systems with separately trained networks: students, two of which are LoRA files in the slots of int8,
restorers, and a negative text."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from shutil import copytree
from tempfile import mkdtemp
from typing import Any

import numpy as np

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime import Sampler
from lab.claims.caption_settings import MODEL, colourless, colours
from lab.claims.claim import (
    FD,
    GUIDED,
    ITSELF,
    OTHER,
    SHARPENED,
    SHIPPED,
    SOUND,
    SPOKEN,
    Figure,
    StepPair,
    Way,
    alike,
    claims,
    plan,
    step_pair,
)
from lab.claims.fit_ways import fit_and_sample
from lab.claims.plan_ways import BEST_OF_SGMSE, OF_SGMSE, RESSHIFT, SGMSE, edit_source
from lab.claims.scores import pairs_distance
from lab.claims.settings import Setting, W, export_source, sampler_of
from zoo.members import BY_NAME, CALIBRATION, FOLDER

ADAPTER, STUDENT = FOLDER / "guided_lora.safetensors", f"{FOLDER / 'guided.py'}:make"
ONE_STEP = f"{FOLDER / 'one_step.py'}:make"
PLAN = "dpmpp_2m:8@trailing"
# By FD of three solvers on two grids at weights 1.5 to 3, on 128 seeds from 20 000 on; PLAN is the students' best too
FOUR, EIGHT = ("dpmpp_2m:4@trailing", 2.5), (PLAN, 3.0)
TAUGHT = alike(3.0)  # the weight of guidance that the students were trained with
CONSISTENT = FOLDER / "consistency_lora.safetensors"
# By rows the best plan of the network alone, and of `ADAPTER`: of three solvers on two grids, on those seeds too
BY_ROWS = {
    1: ("ddim:1", 1, None, "ddim:1"),
    2: ("ddim:2@trailing", 2, None, "ddim:2@trailing"),
    4: ("ddim:2@trailing", 2, 2.0, "gradient_estimation:4@trailing"),
}
# By SI-SDR of three solvers on seeds from 20 000 on; then the published one
STORM, PUBLISHED = "ddim:5", "sgmse(corrections=0):5@linspace"
PREDICTOR = "sgmse(corrections=0):60@linspace", "sgmse(corrections=0):180@linspace"
BEST_OF_RESFUSION = "dpmpp_2m_sde:5"  # by FD of five solvers in the 5 steps of its table, on 256 seeds from 20 000 on
DEGRADED, NOISY = (partial(BY_NAME[name].rows, 64, CALIBRATION) for name in ("nafnet_residual", "speech_ncsn"))
AWAY, NASA = 2.0, 0.5  # weights of a negative text, chosen by the share on 128 seeds from 20 000 on


@lru_cache
def _lower(
    source: str,
    precision: str,
    plan: str = PLAN,
    known: Callable[[], Any] | None = None,
    guidance: float | None = None,
    **options: Any,
) -> Sampler:
    """Return a sampler of a source, in int8 by the default calibration along a plan, in which LoRA slots are empty.
    `known` are its conditions, if random ones differ from those of the training. A plan without its own guidance runs
    with that of the calibration: None is the default of `calibrate`, with two branches if there is a null
    condition."""
    bundle = Path(copytree(export_source(source, **options), Path(mkdtemp()) / "bundle"))
    if precision == "int8":
        file = bundle.with_name("known.npz")
        np.savez(file, **(known() if known else {}))
        conditions = file if known else None
        along = parse_plan_text(plan)
        calibrate(CalibrateOptions(bundle, along, ("cpu-x86",), guidance=guidance, conditions=conditions, threads=1))
    return sampler_of(bundle, precision)


def fill_slots(s: Setting, precision: str, file: Path = ADAPTER, plan: str = PLAN) -> Floats:
    """Return samples with a trained LoRA file, with one row of the network per step."""
    sampler = _lower(s.source, precision, guidance=1.0, lora_slots=("*",), rank=8)
    return replace(s, sampler=sampler.with_options(adapters={str(file): 1.0})).sample(plan, guidance=1.0)


@cache
def consistent(solver: str, rows: int) -> Way:
    """Return the way that uses the consistency LoRA file in int8."""
    return partial(fill_slots, precision="int8", file=CONSISTENT, plan=f"{solver}:{rows}")


def told(s: Setting, precision: str, weight: float = 3.0) -> Floats:
    """Return samples of the student that takes the weight of guidance, with one row of the network per step."""

    def weight_condition(part: Setting) -> Mapping[str, Any]:
        return {"condition": {**part.who, "weight": np.full(len(part.seeds), weight, np.float32)}}

    return replace(s, sampler=_lower(STUDENT, precision)).sample(PLAN, weight_condition)


def rddm(s: Setting, precision: str, plan: str = "rddm:5") -> Floats:
    sampler = _lower(f"{FOLDER / 'rddm.py'}:make", precision, plan, DEGRADED)
    return replace(s, sampler=sampler).sample(plan)


def resfusion(s: Setting, precision: str, plan: str = "ddpm:5") -> Floats:
    """Return samples that start from the degraded image, at the time where alpha is 1/2. Calibration starts from
    noise."""
    sampler = _lower(f"{FOLDER / 'resfusion.py'}:make", precision, plan, DEGRADED)
    return replace(s, sampler=sampler).sample(plan, lambda part: {"given": {"image": part.who["y"]}}, strength=1.0)


def predict(s: Setting) -> Floats:
    """Return StoRM's prediction, in one evaluation. It depends only on y, so its body contains nothing to run in
    int8."""
    return replace(s, sampler=_lower(f"{FOLDER / 'storm.py'}:predictor", "float32")).sample("ddim:1")


def storm(s: Setting, precision: str, plan: str = STORM) -> Floats:
    """Return the samples of StoRM's score network, given that prediction."""
    sampler = _lower(f"{FOLDER / 'storm.py'}:make", precision, plan, _heard)
    return replace(s, sampler=sampler).sample(
        plan, lambda part: {"condition": {**part.who, "predicted": predict(part)}}
    )


def _heard() -> Mapping[str, Any]:
    y = NOISY()
    assert y is not None
    predictor = _lower(f"{FOLDER / 'storm.py'}:predictor", "float32")
    return {**y, "predicted": predictor.sample("ddim:1", range(64), y)}


def without_colours(s: Setting, plan: str, by_attention: bool) -> Floats:
    """Return samples for captions without their colours, which are the negative text instead: by attention in one
    branch, or by a second branch."""

    def by_branch(part: Setting) -> Mapping[str, Any]:
        return {"condition": {"text": colourless(part.seeds)}, "branches": {"uncond": {"text": colours(part.seeds)}}}

    def by_scale(part: Setting) -> Mapping[str, Any]:
        away = {"negative_text": colours(part.seeds), "negative_scale": np.full(len(part.seeds), NASA, np.float32)}
        return {"condition": {"text": colourless(part.seeds), **away}}

    if by_attention:
        return replace(s, sampler=edit_source(s.source, change="nasa")).sample(plan, by_scale)
    return s.sample(plan, by_branch, guidance=AWAY)


def without(s: Setting, plan: str) -> Floats:
    """Return samples for captions without their colours."""
    return s.sample(plan, lambda part: {"condition": {"text": colourless(part.seeds)}})


@cache
def by_network(way: Callable[..., Floats], plan: str) -> Way:
    """Return the way of a network other than the model's, in float32."""
    return partial(way, precision="float32", plan=plan)


def network_steps(way: Callable[..., Floats], few: str, many: str) -> StepPair:
    """Return the pair of two plans of this network in float32."""
    return StepPair(few, many, by_network(way, few), by_network(way, many), network=way.__name__)


def published_steps(few: int) -> StepPair:
    """Return the pair of few steps of StoRM's published sampler and of the published number."""
    return network_steps(storm, *(f"sgmse(corrections=0):{steps}@linspace" for steps in (few, 30)))


@cache
def one_step(steps: int) -> Way:
    """Return the way of the student of the shipped network, with one row of the network per step."""
    plan = f"ddim:{steps}@trailing"
    return lambda s: replace(s, sampler=_lower(ONE_STEP, "float32")).sample(plan)


@cache
def start_of_one_step(plan: str, guidance: float | None) -> Way:
    """Return the way of the network at which that student began."""
    return lambda s: replace(s, sampler=_lower(BY_NAME["dit_flow"].source, "float32")).sample(plan, guidance=guidance)


OF_PAIRS = Figure("-FD to the teacher's pairs", pairs_distance, "an eighth of the samples, jackknifed")
OF_RDDM = network_steps(rddm, "rddm:5", "rddm:10")
OF_RESFUSION = network_steps(resfusion, "ddpm:2", "ddpm:5")  # its table ends after 5 steps, the published number
# Few steps of the published sampler fail, and those of `ddim` do not: a figure may be right along one of them alone
STORM_BY_DDIM = network_steps(storm, STORM, "ddim:30")
CLAIMS = [
    *claims("NASA", "a negative text in one row", 8, lambda s: without_colours(s, "dpmpp_2m:8", True), (MODEL,), {
        "guidance by two rows": (8, lambda s: without_colours(s, "dpmpp_2m:4", False)),
        "no negative text": (8, lambda s: without(s, "dpmpp_2m:8"))}, (OTHER,)),
    *[claim for system, way in (("LoRA-enhanced distillation", fill_slots), ("distillation of guided models", told))
      for claim in claims(system, "guidance in one row, int8", 8, partial(way, precision="int8"), GUIDED[:1], {
          ITSELF: (8, partial(way, precision="float32")),
          "one row without it": (8, plan(EIGHT[0])),
          "two rows, 4 steps": (8, plan(*FOUR)),
          "a fitted plan in 4 steps": (8, partial(fit_and_sample, steps=4, weight=3.0)),
          "two rows, 8 steps": (16, plan(*EIGHT))}, (TAUGHT,))],
    *[claim for rows, (best, steps, weight, guided) in BY_ROWS.items()
      for claim in claims("LCM-LoRA", "few steps by an adapter, int8", rows, consistent("lcm", rows), GUIDED[:1], {
          f"the best plan at {rows}": (rows, plan(best, weight)),
          f"guided_lora at {rows}": (rows, partial(fill_slots, precision="int8", plan=guided)),
          f"a fitted plan at {rows}": (rows, partial(fit_and_sample, steps=steps, weight=weight))}, (TAUGHT,))],
    *[claim for rows, others in (
          (1, {"its start, 8 guided steps": (16, start_of_one_step("dpmpp_2m:8", W)),
               "its teacher, 1 step": (2, plan("ddim:1", W)),
               "its teacher, 2 steps": (4, plan("unipc_2:2@arctan(power=1.5)", W)),
               "its teacher, 8 steps": (16, plan("dpmpp_2m:8", W))}),
          (2, {}))
      for claim in claims("InstaFlow", "few steps by reflow and distillation", rows, one_step(rows), SHIPPED[:1], {
          f"its start at {rows}": (rows, start_of_one_step(f"ddim:{rows}@trailing", 1.0)), **others}, (OF_PAIRS,))],
    *[claim for rows in (2, 4)
      for claim in claims("Hyper-SD", "few steps by tcd, int8", rows, consistent("tcd", rows), GUIDED[:1],
                          {f"lcm at {rows}": (rows, consistent("lcm", rows))}, (TAUGHT,))],
    *[claim for way, system, five, own, others in (
          (rddm, "RDDM", "rddm:5", OF_RDDM, {"rddm:1": network_steps(rddm, "rddm:1", "rddm:10")}),
          (resfusion, "Resfusion", "ddpm:5", OF_RESFUSION,
           {"ddim:5": network_steps(resfusion, "ddim:2", "ddim:5"),
            BEST_OF_RESFUSION: network_steps(resfusion, "dpmpp_2m_sde:2", BEST_OF_RESFUSION)}))
      for claim in claims(system, "5 steps restore, int8", 5, partial(way, precision="int8"), SHARPENED, {
          ITSELF: (5, by_network(way, five)),
          **{f"{other} of its network": (int(other[-1]), by_network(way, other)) for other in others},
          "ResShift's network, 4 steps": (4, plan("resshift:4"))}, (FD,), network=own, own_steps=own,
          steps={ITSELF: own, **{f"{other} of its network": steps for other, steps in others.items()},
                 "ResShift's network, 4 steps": RESSHIFT})],
    *claims("SGMSE+", "cleaner than the recording", 60, plan("sgmse:30@linspace"), SPOKEN, {
        "the recording": (0, lambda s: s.who[s.condition]), "StoRM's prediction": (1, predict)}, (SOUND,),
        own_steps=SGMSE, steps={"the recording": None, "StoRM's prediction": None}),
    *claims("SGMSE+", "a corrector is worth its evaluations", 60, plan("sgmse:30@linspace"), SPOKEN, {
        "the predictor alone": (60, plan(PREDICTOR[0])), "MRS of the SDE": (6, plan(OF_SGMSE))},
        (SOUND,), own_steps=SGMSE,
        steps={"the predictor alone": step_pair(*PREDICTOR),
               "MRS of the SDE": BEST_OF_SGMSE}),
    *claims("StoRM", "a tenth of SGMSE+'s cost, int8", 6, partial(storm, precision="int8"), SPOKEN, {
        ITSELF: (6, by_network(storm, STORM)),
        "sgmse, 60 evaluations": (60, plan("sgmse:30@linspace")),
        "MRS of the SDE": (6, plan(OF_SGMSE)),
        "its published sampler in 5 steps": (6, by_network(storm, PUBLISHED)),
        "the prediction alone": (1, predict)}, (SOUND,), network=STORM_BY_DDIM, own_steps=STORM_BY_DDIM, steps={
        ITSELF: STORM_BY_DDIM, "sgmse, 60 evaluations": SGMSE, "MRS of the SDE": BEST_OF_SGMSE,
        "its published sampler in 5 steps": published_steps(5), "the prediction alone": None}),
    *[claim for steps in (5, 10)
      for claim in claims(f"StoRM as published, {steps} steps", "a tenth of SGMSE+'s cost", steps + 1,
                          by_network(storm, f"sgmse(corrections=0):{steps}@linspace"), SPOKEN,
                          {"sgmse, 60 evaluations": (60, plan("sgmse:30@linspace"))}, (SOUND,),
                          network=published_steps(5), own_steps=published_steps(steps),
                          steps={"sgmse, 60 evaluations": SGMSE})],
]  # fmt: skip
