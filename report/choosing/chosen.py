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
from fewstep.report.choosing.engines import TimedEngine, backend_of, engine_name
from fewstep.report.choosing.kept import keep, kept, kept_name
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler


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


class Chosen(Strict, frozen=True):
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


def chosen(path: Path | str) -> Chosen:
    """The last choice that was made of a bundle on this machine. UserError where there is none.

    A bundle that changed since, another processor, and other versions of engines or fewstep have none.
    """
    choice = kept(_name(open_bundle(path)), Chosen)
    if choice is None:
        fix = f"fewstep choose {path} --within 20ms"
        raise UserError(f"no choice was made of {path} on this machine, as it is now", fix)
    return choice


def load_chosen(path: Path | str, choice: Chosen) -> Sampler:
    """The bundle with the body and the engine of a choice, ready to run its plans."""
    return load(path, body=choice.winner.body, backend=backend_of(choice.winner.engine, choice.rows))


def described(row: Deployment) -> str:
    """A deployment in words."""
    where, over = f"{row.body} ({engine_name(row.engine)})", row.quality.nearness.over
    return f"{row.plan} on {where}: {row.milliseconds:.3g} ms, {row.psnr:.1f} dB{over}"


def keep_choice(bundle: Bundle, choice: Chosen) -> None:
    """Keep a choice as the bundle's last one."""
    keep(_name(bundle), choice)


def _name(bundle: Bundle) -> str:
    return kept_name("chosen", bundle.manifest.files, bundle.manifest.bodies)
