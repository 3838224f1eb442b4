"""A bundle's choice on this machine: kept in the user's cache folder, for `fewstep run` and for programs.

    choice = chosen("bundle")
    with load_chosen("bundle", choice) as sampler:
        x = sampler.sample(choice.winner.plan, seeds=[0], guidance=choice.guidance, shaping=choice.shaping)

A robot's loop takes `choice.family`: plans of the same body and engine, the best first.
"""

from pathlib import Path

from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.shaping import Shaping
from fewstep.plans.spec import Strict
from fewstep.report.choosing.engines import TimedEngine, engine_name, make_backend
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler


class Deployment(Strict, frozen=True):
    """A plan on a body on an engine.

    milliseconds: of a call; ratio: the same as a multiple of a call of float32's network. quality: against the teacher.
    gain: what the body keeps of guidance's direction, where calibration measured that; 1 is all of it.
    """

    body: str
    precision: str
    engine: TimedEngine
    plan: str
    evaluations: int
    milliseconds: float
    ratio: float
    quality: EndQuality
    gain: float | None = None

    @property
    def psnr(self) -> float:
        return self.quality.mean


class SavedChoice(Strict, frozen=True):
    """The winner of a choice, and its family: plans of the same body and engine that are on the front too, of no more
    time, the best first. `name` is the bundle's, `asked` the budget in words, `day` in the form of ISO 8601. `rows` are
    those of x in a call of the network. All plans have this `guidance` and `shaping`."""

    name: str
    asked: str
    day: str
    rows: int
    guidance: Guidance | None
    shaping: Shaping | None
    winner: Deployment
    family: tuple[str, ...]


def load_choice(path: Path | str) -> SavedChoice:
    """The last choice that was made of a bundle on this machine. UserError where there is none.

    A bundle that changed since, another processor, and other versions of engines or fewstep have none.
    """
    choice = read_cached(_choice_name(open_bundle(path)), SavedChoice)
    if choice is None:
        fix = f"fewstep choose {path} --within 20ms"
        raise UserError(f"no choice was made of {path} on this machine, as it is now", fix)
    return choice


def load_chosen_sampler(path: Path | str, choice: SavedChoice) -> Sampler:
    """The bundle with the body and the engine of a choice, ready to run its plans."""
    return load(path, body=choice.winner.body, backend=make_backend(choice.winner.engine, choice.rows))


def describe_deployment(row: Deployment) -> str:
    """A deployment in words."""
    where, over = f"{row.body} ({engine_name(row.engine)})", row.quality.nearness.snr_text
    return f"{row.plan} on {where}: {row.milliseconds:.3g} ms, {row.psnr:.1f} dB{over}"


def save_choice(bundle: Bundle, choice: SavedChoice) -> None:
    """Keep a choice as the bundle's last one."""
    write_cached(_choice_name(bundle), choice)


def _choice_name(bundle: Bundle) -> str:
    return cache_key("chosen", bundle.manifest.files, bundle.manifest.bodies)
