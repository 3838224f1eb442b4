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
from fewstep.runtime import Sampler
from lab.claims.caption_settings import MODEL, colourless, colours
from lab.claims.claim import FD, GUIDED, ITSELF, OTHER, SHARPENED, SOUND, SPOKEN, Network, Way, alike, claims, plan
from lab.claims.fit_ways import fit_and_sample
from lab.claims.plan_ways import edit_source
from lab.claims.settings import Setting, export_source, sampler_of
from lab.zoo.members import BY_NAME, CALIBRATION, FOLDER

ADAPTER, STUDENT = FOLDER / "guided_lora.safetensors", f"{FOLDER / 'guided.py'}:make"
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
# By SI-SDR of three solvers on seeds from 20 000 on; then the published one, and the best of four of SGMSE+'s network
STORM, PUBLISHED, OF_SGMSE = "ddim:5", "sgmse(corrections=0):5@linspace", "dpmpp_2m_sde:6"
FEWER = "dpmpp_2m_sde:4"  # of Resfusion's network; nearer to the data than `ddpm:5` on 256 other seeds too
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
        calibrate(CalibrateOptions(bundle, plan, ("cpu-x86",), guidance=guidance, conditions=conditions, threads=1))
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


OF_STORM = Network("storm", PUBLISHED, "sgmse(corrections=0):30@linspace", lambda s, plan: storm(s, "float32", plan))
# Few steps of the published sampler fail, and those of `ddim` do not: a figure may be right along one of them alone
STORM_BY_DDIM = Network("storm by ddim", STORM, "ddim:30", OF_STORM.sample)
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
    *[claim for rows in (2, 4)
      for claim in claims("Hyper-SD", "few steps by tcd, int8", rows, consistent("tcd", rows), GUIDED[:1],
                          {f"lcm at {rows}": (rows, consistent("lcm", rows))}, (TAUGHT,))],
    *[claim for system, way, others, network in (
          ("RDDM", rddm, ("rddm:1",), Network("rddm", "rddm:5", "rddm:10", lambda s, plan: rddm(s, "float32", plan))),
          ("Resfusion", resfusion, ("ddim:5", FEWER),
           Network("resfusion", "ddpm:2", "ddpm:5", lambda s, plan: resfusion(s, "float32", plan))))
      for claim in claims(system, "5 steps restore, int8", 5, partial(way, precision="int8"), SHARPENED, {
          ITSELF: (5, partial(way, precision="float32")),
          **{f"{other} of its network": (int(other[-1]), partial(way, precision="float32", plan=other))
             for other in others},
          "ResShift's network, 4 steps": (4, plan("resshift:4"))}, (FD,), network=network)],
    *[claim for words, controls in (
        ("cleaner than the recording",
         {"the recording": (0, lambda s: s.who[s.condition]), "StoRM's prediction": (1, predict)}),
        ("a corrector is worth its evaluations",
         {"the predictor alone": (60, plan("sgmse(corrections=0):60@linspace")), "the best plan": (6, plan(OF_SGMSE))}))
      for claim in claims("SGMSE+", words, 60, plan("sgmse:30@linspace"), SPOKEN, controls, (SOUND,))],
    *claims("StoRM", "a tenth of SGMSE+'s cost, int8", 6, partial(storm, precision="int8"), SPOKEN, {
        ITSELF: (6, partial(storm, precision="float32")),
        "sgmse, 60 evaluations": (60, plan("sgmse:30@linspace")),
        "the best plan of SGMSE+'s network": (6, plan(OF_SGMSE)),
        "its published sampler in 5 steps": (6, partial(storm, precision="float32", plan=PUBLISHED)),
        "the prediction alone": (1, predict)}, (SOUND,), network=STORM_BY_DDIM),
    *[claim for steps in (5, 10)
      for claim in claims(f"StoRM as published, {steps} steps", "a tenth of SGMSE+'s cost", steps + 1,
                          partial(storm, precision="float32", plan=f"sgmse(corrections=0):{steps}@linspace"), SPOKEN,
                          {"sgmse, 60 evaluations": (60, plan("sgmse:30@linspace"))}, (SOUND,), network=OF_STORM)],
]  # fmt: skip
