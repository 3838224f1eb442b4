"""The choice for a bundle on this machine: stored in the user's cache folder, for `fewstep run` and for programs.

    choice = load_choice("bundle")
    with load_chosen_sampler("bundle", choice) as sampler:
        x = sampler.sample(choice.winner.plan, seeds=[0], **choice.settings)

The control loop of a robot uses `choice.family`, plans of the same body and engine, best first.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.sampling import FLOAT
from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import FileReference, NamedReference, parse_plan_text
from fewstep.plans.names.user_code import split_code
from fewstep.plans.shaping import UNCLIPPED, Shaping
from fewstep.plans.spec import Strict
from fewstep.report.choosing.choice_facts import bodies_and_files, describe_changes, last_options, store_facts
from fewstep.report.choosing.engines import TimedEngine, engine_name, make_backend
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.runtime.bundle.figures import JudgeScore
from fewstep.runtime.bundle.reading import Bundle, file_sha256, open_bundle
from fewstep.runtime.sampling.calibrated_plans import Defaults
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")
UNPACK = (  # fewstep pack may leave out the body that samples are compared with
    "choose in the bundle that this was packed from, and give its plan here: --plan and --precision instead of --chosen"
)


class Deployment(Strict, frozen=True):
    """A plan on a body on an engine.

    milliseconds: the time of a call. ratio: this time as a multiple of a call of float32's network. quality: the
        quality against the teacher. gain: the fraction of guidance's direction that the body keeps (1 means all), if
        calibration measured it. judged: the score by the user's judge; None without one. day: the date on which the
        ratio was measured, in ISO 8601. is_sure: whether the ratio was measured without delays by other programs.
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
    judged: JudgeScore | None = None
    day: str = ""
    is_sure: bool = True

    @property
    def psnr(self) -> float:
        return self.quality.mean

    @property
    def rank(self) -> tuple[float, float]:
        """The figures by which deployments are ranked: the score by the user's judge, if there is one, then the PSNR in
        dB."""
        return 0.0 if self.judged is None else self.judged.score.value, self.psnr


class SavedChoice(Strict, frozen=True):
    """The deployment that `fewstep choose` chose on this machine.

    name: the name of the bundle. asked: the limits on time and quality, as text. day: the date in ISO 8601. rows: rows
        of x in a call of the network. guidance, shaping: those of all plans that were compared. family: plans on the
        Pareto front with the same body and engine that are not slower, best first. options: those of `fewstep choose`,
        as text. files: the SHA-256 of each file that the winner's or the family's plans are read from, and of the
        judge's files. memory: the most memory of a run, as text; None for no limit.
    """

    name: str
    asked: str
    day: str
    rows: int
    guidance: Guidance | None
    shaping: Shaping | None
    winner: Deployment
    family: tuple[str, ...]
    options: str = ""
    files: dict[str, str] = {}
    memory: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The winner's guidance and shaping as arguments of `Sampler.sample`, so that nothing is taken from the
        calibration."""
        return self.settings_of(self.winner.plan)

    def settings_of(self, plan: str) -> dict[str, Any]:
        """Return the guidance and the shaping of a plan of the family. The plans of schedulers, fits and files contain
        their shaping."""
        return {
            "guidance": 1.0 if self.guidance is None else self.guidance,
            "shaping": (self.shaping or UNCLIPPED) if _is_named(plan) else None,
        }

    @property
    def defaults(self) -> Defaults:
        """The guidance of the winner, and its shaping if its plan is a named one. Other plans contain their own
        shaping."""
        return Defaults(self.guidance, self.shaping if _is_named(self.winner.plan) else None)


def _is_named(plan: str) -> bool:
    return isinstance(parse_plan_text(plan), NamedReference)


def today() -> str:
    """Return the date of this machine in ISO 8601."""
    return time.strftime("%Y-%m-%d")


def load_choice(path: Path | str) -> SavedChoice:
    """Return the last choice for a bundle on this machine. Raises UserError if there is none.

    A choice is no longer found after a change of the bundle, of the files of its plans or of its judge, of the
    processor, or of the versions of engines or fewstep.
    """
    bundle = open_bundle(path)
    choice = read_cached(_choice_name(bundle), SavedChoice)
    options = (last_options(bundle) if choice is None else choice.options) or "--within 20ms"
    fix = f"fewstep choose {quote_path(path)} {options}" if FLOAT in bundle.manifest.bodies else UNPACK
    if choice is None:
        what = describe_changes(bundle) or f"no choice is stored for {path} and the current state of this machine"
        raise UserError(what, fix)
    for file, digest in choice.files.items():
        if not Path(file).is_file() or file_sha256(Path(file)) != digest:
            how = "changed" if Path(file).is_file() else "is missing"
            raise UserError(f"the choice of {choice.day} no longer holds: {file} {how}", fix)
    return choice


def load_chosen_sampler(path: Path | str, choice: SavedChoice) -> Sampler:
    """Load the bundle with the body and the engine of a choice. Raises UserError for a choice with a budget of memory,
    which only `fewstep run` keeps: a sampler has all networks in memory."""
    refuse_budget(choice, "a program")
    return load(path, body=choice.winner.body, backend=make_backend(choice.winner.engine, choice.rows))


def refuse_budget(choice: SavedChoice, user: str) -> None:
    """Raise UserError for a choice with a budget of memory. `user` is what would have all networks in memory."""
    if choice.memory is not None:
        what = f"the choice is for a run in {choice.memory} of memory, and {user} keeps all networks in memory"
        raise UserError(what, "run fewstep choose without --memory, or sample with fewstep run --chosen")


def warn_of_quality(choice: SavedChoice) -> None:
    """Log a warning if the samples of a choice are far from the teacher's."""
    nearness = choice.winner.quality.nearness
    if not nearness.is_enough:
        LOG.warning("the choice is only %s: look at its samples", nearness.describe("the teacher"))


def describe_deployment(row: Deployment) -> str:
    """Describe a deployment as text."""
    where, over = f"{row.body} ({engine_name(row.engine)})", row.quality.nearness.snr_text
    score = "" if row.judged is None else f"a score of {row.judged.score.value:.4g}, "
    return f"{row.plan} on {where}: {row.milliseconds:.3g} ms, {score}{row.psnr:.1f} dB{over}"


def save_choice(bundle: Bundle, choice: SavedChoice, given: str, judge_files: Sequence[Path] = ()) -> SavedChoice:
    """Store a choice as the bundle's last choice. Return it with the options of `fewstep choose` that made it, as text,
    and the hashes of the files of its plans and of those of the judge that scored it."""
    of_plans = [file for plan in (choice.winner.plan, *choice.family) for file in _files_of(plan)]
    files = {str(file): file_sha256(file) for file in (*of_plans, *judge_files)}
    choice = msgspec.structs.replace(choice, options=given, files=files)
    write_cached(_choice_name(bundle), choice)
    store_facts(bundle, choice.day, given)
    return choice


def _files_of(plan: str) -> Iterator[Path]:
    """Yield the plan file, or the files of user-supplied code, that a plan's text names."""
    reference = parse_plan_text(plan)
    homes = [reference.path] if isinstance(reference, FileReference) else []
    if isinstance(reference, NamedReference):
        grid = split_code(reference.parts.grid or "")
        homes = [Path(home) for home in (reference.parts.home, None if grid is None else grid[0]) if home is not None]
    yield from (home.absolute() for home in homes if home.is_file())


def _choice_name(bundle: Bundle) -> str:
    bodies, files = bodies_and_files(bundle)
    return cache_key("chosen", files, bodies)
