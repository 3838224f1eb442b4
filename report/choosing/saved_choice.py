"""The choice for a bundle on this machine: stored in the user's cache folder, for `fewstep run` and for programs.

    choice = load_choice("bundle")
    with load_chosen_sampler("bundle", choice) as sampler:
        x = sampler.sample(choice.winner.plan, seeds=[0], **choice.settings)

The control loop of a robot uses `choice.family`, plans of the same body and engine, best first.
"""

from pathlib import Path
from typing import Any

from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.sampling import FLOAT
from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import NamedReference, parse_plan_text
from fewstep.plans.shaping import UNCLIPPED, Shaping
from fewstep.plans.spec import Strict
from fewstep.report.choosing.choice_facts import describe_changes, store_facts
from fewstep.report.choosing.engines import TimedEngine, engine_name, make_backend
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.calibrated_plans import Defaults
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler

UNPACK = (  # fewstep pack may leave out the body that samples are compared with
    "choose in the bundle that this was packed from, and give its plan here: --plan and --precision instead of --chosen"
)


class Deployment(Strict, frozen=True):
    """A plan on a body on an engine.

    milliseconds: the time of a call. ratio: this time as a multiple of a call of float32's network. quality: the
        quality against the teacher. gain: the fraction of guidance's direction that the body keeps (1 means all), if
        calibration measured it.
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
    """The deployment that `fewstep choose` chose on this machine.

    name: the name of the bundle. asked: the limits on time and quality, as text. day: the date in ISO 8601. rows: rows
        of x in a call of the network. guidance, shaping: those of all plans that were compared. family: plans on the
        Pareto front with the same body and engine that are not slower, best first.
    """

    name: str
    asked: str
    day: str
    rows: int
    guidance: Guidance | None
    shaping: Shaping | None
    winner: Deployment
    family: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The winner's guidance and shaping as arguments of `Sampler.sample`, so that nothing is taken from the
        calibration. The plans of schedulers, fits and files contain their shaping."""
        return {
            "guidance": 1.0 if self.guidance is None else self.guidance,
            "shaping": (self.shaping or UNCLIPPED) if self._is_named else None,
        }

    @property
    def defaults(self) -> Defaults:
        """The guidance of the winner, and its shaping if its plan is a named one. Other plans contain their own
        shaping."""
        return Defaults(self.guidance, self.shaping if self._is_named else None)

    @property
    def _is_named(self) -> bool:
        return isinstance(parse_plan_text(self.winner.plan), NamedReference)


def load_choice(path: Path | str) -> SavedChoice:
    """Return the last choice for a bundle on this machine. Raises UserError if there is none.

    A choice is no longer found after a change of the bundle, the processor, or the versions of engines or fewstep.
    """
    bundle = open_bundle(path)
    choice = read_cached(_choice_name(bundle), SavedChoice)
    if choice is None:
        what = describe_changes(bundle) or f"no choice is stored for {path} and the current state of this machine"
        raise UserError(
            what, f"fewstep choose {quote_path(path)} --within 20ms" if FLOAT in bundle.manifest.bodies else UNPACK
        )
    return choice


def load_chosen_sampler(path: Path | str, choice: SavedChoice) -> Sampler:
    """Load the bundle with the body and the engine of a choice."""
    return load(path, body=choice.winner.body, backend=make_backend(choice.winner.engine, choice.rows))


def describe_deployment(row: Deployment) -> str:
    """Describe a deployment as text."""
    where, over = f"{row.body} ({engine_name(row.engine)})", row.quality.nearness.snr_text
    return f"{row.plan} on {where}: {row.milliseconds:.3g} ms, {row.psnr:.1f} dB{over}"


def save_choice(bundle: Bundle, choice: SavedChoice) -> None:
    """Store a choice as the bundle's last choice."""
    write_cached(_choice_name(bundle), choice)
    store_facts(bundle, choice.day)


def _choice_name(bundle: Bundle) -> str:
    return cache_key("chosen", bundle.manifest.files, bundle.manifest.bodies)
