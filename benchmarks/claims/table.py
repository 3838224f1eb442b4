"""The claims: for each system what it claims, the figure, our way, and the plain way that could refute it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from benchmarks.claims.claim_ways import (
    SEARCH,
    alike,
    best_of,
    best_reward,
    cfg,
    chain,
    cyclic,
    drawn,
    filtered,
    from_phases,
    from_picture,
    inpainted,
    lawful,
    layout,
    mean_reward,
    moved,
    one_noise,
    plain,
    populated,
    rcfg,
    repainted,
    reward,
    rolled,
    seams,
    searched,
    still,
    story,
    streamed,
    unchained,
    value,
    wide,
)
from benchmarks.claims.fit_ways import BEST, fitted, of_literature, shipped_fit
from benchmarks.claims.plan_ways import (
    ALONE,
    JOINT,
    PAG,
    cfg_plus_plus,
    ddim_and_back,
    likeness,
    perturbed,
    returned,
    shifted,
    si_sdr,
    there_and_back,
    to_clean,
    tuned,
    untouched,
    weighed,
)
from benchmarks.claims.settings import LAWFUL, Setting, W
from benchmarks.claims.student_ways import (
    BY_ROWS,
    CONSISTENT,
    EIGHT,
    FOUR,
    OF_SGMSE,
    PUBLISHED,
    filled,
    kept_away,
    other_colour,
    predicted,
    rddm,
    resfusion,
    storm,
    told,
    without,
)
from fewstep.literature.streams import Similar
from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.guidance import Guidance

Way = Callable[[Setting], Floats]
PlainWay = Callable[[Setting, int], Floats]
SHIPPED = ("fashion_mnist", "cifar10")
GUIDED = ("dit_flow", "convnext_v_cosine")
U_NET = ("unet_epsilon_linear",)
PLAIN = ("unet_epsilon_linear", "convnext_v_cosine")
SHARPENED, SPOKEN, CAPTIONED = ("nafnet_residual",), ("speech_ncsn",), ("text_unet_flow",)
MANY = 256  # seeds of a distance


@dataclass(frozen=True)
class Claim:
    """A system and the plain way, at so many evaluations per sample. `score` is the figures of what they make, one for
    each seed or as many as there are; the larger is better. Making is timed, scoring is not.

    control: the plain way, in words.
    seeds: that the figures are of, from the first seed on; None for those of the command.
    of_time: what is made is itself a figure of time, one for each round.
    asked: how many times the plain way's figure the claim asks for.
    unit: of which there is a figure each: the deviation of the mean is over these.
    plain_evaluations: of a plain way that has a number of its own.
    has_longer: whether the plain way stands at equal time too. Of one plan beside another equal
        evaluations are equal time.
    """

    system: str
    claim: str
    control: str
    figure: str
    evaluations: int
    ours: Way
    plain: PlainWay
    score: Callable[[Setting, Floats], Floats]
    models: tuple[str, ...] = SHIPPED
    seeds: int | None = None
    of_time: bool = False
    asked: float | None = None
    unit: str = "seed"
    plain_evaluations: int | None = None
    has_longer: bool = True


@cache
def plan(name: str, guidance: Guidance | float | None = None) -> Way:
    """One way for each plan, whose samples claims share."""
    return lambda s: s.sample(name, guidance=guidance)


@cache
def always(way: Way) -> PlainWay:
    """A plain way of one number of evaluations."""
    return lambda s, n: way(s)


def beside(
    *words: str,
    evaluations: int,
    ours: Way,
    theirs: Way,
    models: tuple[str, ...],
    seeds: int | None = MANY,
    of_theirs: int | None = None,
) -> Claim:
    """One plan beside another at equal evaluations, which are equal time, or beside one of `of_theirs`. `words` are
    system, claim, control and figure."""
    system, claim, control, figure = words
    unit = "an eighth of the samples, jackknifed" if figure == FD else "seed"
    return Claim(
        *(system, claim, control, figure, evaluations, ours, always(theirs), SCORES[figure], models, seeds),
        unit=unit,
        plain_evaluations=of_theirs,
        has_longer=False,
    )


LOG_P, FD, CLEAN, SOUND, OTHER = "log p(class)", "-FD", "PSNR to clean", "SI-SDR", "the item, in another colour"
SCORES = {FD: likeness, CLEAN: to_clean, SOUND: si_sdr, OTHER: other_colour}
CLAIMS = [
    Claim("StreamDiffusion RCFG", "guidance at half the evaluations", "guidance by two branches", LOG_P, 8,
          rcfg, cfg, reward),
    Claim("StreamDiffusion batch", "1.5x the frames of a sequence", "a sequence", "frames/s", 4,
          lambda s: streamed(s, "batch"), lambda s, n: streamed(s, "sequence"), value, of_time=True, asked=1.5,
          unit="round", has_longer=False),
    Claim("StreamDiffusion filter", "a still scene costs little", "no filter", "frames per call", 4,
          lambda s: still(s, Similar()), lambda s, n: still(s, None), value, unit="run", has_longer=False),
    Claim("FK steering", "more reward than the best of N", "best of N", LOG_P, SEARCH, populated, best_of, best_reward),
    Claim("FK correctors", "the law that guidance names", "guidance alone", "-distance of class shares", LAWFUL,
          lambda s: drawn(s, True), lambda s, n: drawn(s, False), lawful, GUIDED[:1],
          unit="class", has_longer=False),
    Claim("SVDD", "more reward than the best of N", "best of N", LOG_P, SEARCH,
          lambda s: populated(s, choice="one"), best_of, best_reward),
    Claim("RBF", "more reward than the best of N", "best of N", LOG_P, SEARCH, rolled, best_of, best_reward),
    Claim("noise search", "more reward than more steps", "more steps", LOG_P, SEARCH, searched, plain, reward),
    Claim("noise search", "more reward than more noises", "best of N", LOG_P, SEARCH,
          searched, best_of, best_reward, GUIDED),
    Claim("REINFORCE on the start", "a start that is rewarded, for all seeds", "more steps", LOG_P, SEARCH,
          moved, plain, reward),
    Claim("hallucination filter", "fewer samples off the data, 90 % kept", "no filter", LOG_P, 20,
          filtered, lambda s, n: reward(s, plain(s, n)), value),
    Claim("RePaint", "inpainting that fits its surroundings", "held by steps that go down", LOG_P, 28,
          repainted, lambda s, n: inpainted(s, f"ddpm:{max(n, 1)}"), reward),
    Claim("COW", "inpainting that fits its surroundings", "held by steps that go down", LOG_P, 32,
          cyclic, lambda s, n: inpainted(s, f"ddpm:{max(n, 1)}"), reward, GUIDED),
    Claim("NeuralRemaster", "the layout of a picture, at no cost", "image-to-image of strength 0.8", "correlation", 10,
          from_phases, from_picture, layout, GUIDED),
    Claim("NeuralRemaster", "samples as good as of white noise", "white noise", LOG_P, 10,
          from_phases, plain, reward, GUIDED),
    Claim("illustration sequences", "pictures alike, in fewer evaluations", "one noise", "correlation", 6,
          story, one_noise, alike, unit="picture, each compared with all"),
    Claim("illustration sequences", "pictures of their own classes", "one noise", LOG_P, 6, story, one_noise, reward),
    Claim("Denoising MCMC", "good samples in fewer evaluations", "dpmpp_2m", LOG_P, 11,
          chain, unchained, mean_reward, GUIDED),
    Claim("Any-Size-Diffusion", "no seams without overlap", "windows that stand", "minus step at borders", 30,
          lambda s: wide(s, "ddim:10", True), lambda s, n: wide(s, f"ddim:{max(n // 2, 1)}", False), seams),
    Claim("Any-Size-Diffusion", "no seams without overlap", "windows that overlap by half", "minus step at borders", 30,
          lambda s: wide(s, "ddim:10", True),
          lambda s, n: wide(s, f"ddim:{max(n // 3, 1)}", False, s.sampler.bundle.manifest.x_shape[-1] // 2),
          seams, GUIDED),
    Claim("BDIA", "a picture comes back from its noise", "ddim_inverse and ddim", "PSNR of the source", 40,
          lambda s: there_and_back(s, 20), ddim_and_back, returned, GUIDED),
    beside("CFG++", "guidance that stays near the data", "guidance of the best weight", FD, evaluations=16,
           ours=cfg_plus_plus, theirs=weighed, models=GUIDED),
    beside("PAG", "guidance without a null condition", "twice the steps", FD, evaluations=10,
           ours=perturbed, theirs=plan("dpmpp_2m:10"), models=tuple(PAG)),
    beside("PAG", "guidance without a null condition", "guidance by two branches", FD, evaluations=10,
           ours=perturbed, theirs=lambda s: weighed(s, "dpmpp_2m:5"), models=tuple(PAG)),
    beside("Skip-Tuning", "nearer to the data in few steps", "no scale", FD, evaluations=5,
           ours=lambda s: tuned(s, "dpmpp_2m:5"), theirs=plan("dpmpp_2m:5"), models=U_NET),
    beside("Skip-Tuning", "nearer to the data in few steps", "unipc_2, the best plan", FD, evaluations=5,
           ours=lambda s: tuned(s, "unipc_2:5"), theirs=plan("unipc_2:5"), models=U_NET),
    beside("Time-Shift Sampler", "nearer to the data, without training", "the same plan", FD, evaluations=10,
           ours=lambda s: shifted(s, "ddim:10"), theirs=plan("ddim:10"), models=PLAIN),
    beside("Hyperparameters", "solver, grid and skips together", "the best solver and grid", FD, evaluations=5,
           ours=lambda s: tuned(s, JOINT), theirs=plan(ALONE), models=U_NET),
    *[beside(ours.upper(), "less divergence at guidance 7.5", theirs, FD, evaluations=16,
             ours=plan(f"{ours}:8", 7.5), theirs=plan(f"{theirs}:8", 7.5), models=GUIDED)
      for ours, rivals in (("ghvb", ("ddim", "ipndm", "dpmpp_2m")), ("hb", ("ipndm", "dpmpp_2m")))
      for theirs in rivals],
    *[beside(system, "nearer to the data than DDIM", f"{theirs} at {count}", FD, evaluations=count,
             ours=plan(f"{ours}:{steps}"), theirs=plan(f"{theirs}:{count}"), models=PLAIN)
      for system, ours, counts in (("PNDM", "s_pndm", ((20, 19), (50, 49))),
                                   ("PNDM of order 4", "f_pndm", ((20, 11), (50, 41))))
      for count, steps in counts for theirs in ("ddim", "dpmpp_2m")],
    *[beside("Score-SDE", "a corrector is worth its evaluations", control, FD, evaluations=40,
             ours=plan("score_sde_pc:20"), theirs=plan(theirs), models=PLAIN)
      for control, theirs in (("the predictor alone", "score_sde_pc(corrections=0):40"), ("dpmpp_2m", "dpmpp_2m:40"))],
    *[beside("ResShift", "4 steps do for 15", "15 steps", figure, evaluations=4, of_theirs=15,
             ours=plan("resshift:4"), theirs=plan("resshift:15"), models=SHARPENED) for figure in (CLEAN, FD)],
    *[beside("ResShift", "4 steps are enough", "ddim", figure, evaluations=4,
             ours=plan("resshift:4"), theirs=plan("ddim:4"), models=SHARPENED) for figure in (CLEAN, FD)],
    *[beside("MRS", "few evaluations of a restorer do", "resshift", figure, evaluations=5,
             ours=plan("dpmpp_2m:5"), theirs=plan("resshift:5"), models=SHARPENED) for figure in (CLEAN, FD)],
    *[beside("MRS", "few evaluations of a restorer do", control, SOUND, evaluations=6, of_theirs=2 * steps,
             ours=plan("dpmpp_2m:6"), theirs=plan(f"sgmse:{steps}@linspace"), models=SPOKEN, seeds=None)
      for control, steps in (("sgmse, 60 evaluations", 30), ("sgmse", 3))],
    *[beside("SGMSE+", claim, control, SOUND, evaluations=60, of_theirs=of_theirs,
             ours=plan("sgmse:30@linspace"), theirs=theirs, models=SPOKEN, seeds=None)
      for claim, control, of_theirs, theirs in (
          ("cleaner than the recording", "the recording", 0, untouched),
          ("a corrector is worth its evaluations", "the predictor alone", 60,
           plan("sgmse(corrections=0):60@linspace")))],
    *[beside("NASA", "a negative text in one row", control, OTHER, evaluations=8,
             ours=lambda s: kept_away(s, "dpmpp_2m:8", True), theirs=theirs, models=CAPTIONED)
      for control, theirs in (("guidance by two rows", lambda s: kept_away(s, "dpmpp_2m:4", False)),
                              ("no negative text", lambda s: without(s, "dpmpp_2m:8")))],
    *[beside(system, "guidance in one row, int8", control, FD, evaluations=8, of_theirs=of_theirs,
             ours=ours, theirs=theirs, models=GUIDED[:1])
      for system, way in (("LoRA-enhanced distillation", filled), ("distillation of guided models", told))
      for ours in [partial(way, precision="int8")]
      for control, of_theirs, theirs in (
          ("the same in float32", 8, partial(way, precision="float32")),
          ("one row without it", 8, plan(EIGHT[0])),
          ("two rows, 4 steps", 8, plan(*FOUR)),
          ("two rows, 8 steps", 16, plan(*EIGHT)))],
    *[beside("LCM-LoRA", "few steps by an adapter, int8", f"{control} at {rows}", FD, evaluations=rows,
             ours=ours, theirs=theirs, models=GUIDED[:1])
      for rows, (best, steps, weight, guided) in BY_ROWS.items()
      for ours in [partial(filled, precision="int8", file=CONSISTENT, plan=f"lcm:{rows}")]
      for control, theirs in (("the best plan", plan(best, weight)),
                              ("guided_lora", partial(filled, precision="int8", plan=guided)),
                              ("a fitted plan", partial(fitted, steps=steps, weight=weight)))],
    *[beside(system, "5 steps restore, int8", control, figure, evaluations=5, of_theirs=of_theirs,
             ours=ours, theirs=theirs, models=SHARPENED)
      for system, way, other in (("RDDM", rddm, "rddm:1"), ("Resfusion", resfusion, "ddim:5"))
      for ours in [partial(way, precision="int8")]
      for control, of_theirs, theirs in (
          ("the same in float32", 5, partial(way, precision="float32")),
          (f"{other} of its network", int(other[-1]), partial(way, precision="float32", plan=other)),
          ("ResShift's network, 4 steps", 4, plan("resshift:4")))
      for figure in (CLEAN, FD)],
    *[beside("StoRM", "a tenth of SGMSE+'s cost, int8", control, SOUND, evaluations=6, of_theirs=of_theirs,
             ours=ours, theirs=theirs, models=SPOKEN, seeds=None)
      for ours in [partial(storm, precision="int8")]
      for control, of_theirs, theirs in (
          ("the same in float32", 6, partial(storm, precision="float32")),
          ("sgmse, 60 evaluations", 60, plan("sgmse:30@linspace")),
          ("the best plan of SGMSE+'s network", 6, plan(OF_SGMSE)),
          ("its published sampler in 5 steps", 6, partial(storm, precision="float32", plan=PUBLISHED)),
          ("the prediction alone", 1, predicted))],
    *[beside(system, "nearer to the data in 5 steps", control, FD, evaluations=10,
             ours=ours, theirs=theirs, models=SHIPPED[:1])
      for system, method in (("AutoDiffusion", "auto_diffusion"), ("S³", "solver_search"), ("OLSS", "olss"),
                             ("DC-Solver", "compensation"), ("analytical teleportation", "teleportation"))
      for ours in [partial(of_literature, method=method)]
      for control, theirs in (("the best plan", plan(BEST, W)), ("fewstep fit", shipped_fit))],
]  # fmt: skip
