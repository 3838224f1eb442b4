"""The result of a fit, and the fitted plan in its bundle."""

from dataclasses import dataclass

import msgspec

from fewstep.fitting.feature_tradeoff import Trade
from fewstep.fitting.judgement import FitScore
from fewstep.fitting.levenberg_marquardt import ERRORS, Gain
from fewstep.fitting.previous_fit import use_of, use_of_entry
from fewstep.fitting.requirements import BODY
from fewstep.graph.files.commit import Writer
from fewstep.measure.distances.frechet import SetComparison
from fewstep.measure.teacher import TeacherCheck
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.sampling.fitted_plans import graph_of_fit


@dataclass(frozen=True)
class FitResult:
    """The result of a fit.

    check: the distances of the teacher and of the fitted plan from the exact trajectory.
    nominal_psnr: mean PSNR of the nominal plan against the teacher on the judge seeds, in dB.
    on_fit, on_selection, on_judge: gains of the fitted plan over the nominal one, on the three sets of seeds.
    over_previous: the gain of the fitted plan on the judge seeds over the bundle's previous fitted plan for the same
        use; None if there is none.
    trade: the trade for features and energy; None if no step gained.
    features: the name of the extractor that `sets` uses; None without an extractor.
    sets: FD of the fitted plan from the teacher on the judge seeds, paired with the nominal plan.
    iterations: steps of the search that gained, including those before an interruption.
    numbers: the count of free numbers.
    times, nominal_times: the times that the network receives.
    plan: the fitted plan; None if the nominal plan is as good, or the previous fitted plan is better.
    score: the scores by the user's judge on the judge seeds; None without one.
    weak_teacher: why the bundle does not keep the plan, and which teacher to use; None if the teacher suffices.
    """

    bundle: str
    body: str
    nominal: str
    teacher: str
    check: TeacherCheck
    nominal_psnr: float
    on_fit: Gain
    on_selection: Gain
    on_judge: Gain
    over_previous: Gain | None
    trade: Trade | None
    features: str | None
    sets: SetComparison | None
    judge_seeds: int
    iterations: int
    numbers: int
    seconds: float
    times: tuple[float, ...]
    nominal_times: tuple[float, ...]
    plan: Plan | None
    weak_teacher: str | None = None
    score: FitScore | None = None

    @property
    def are_sets_further(self) -> bool:
        """True if the fitted plan is further from the teacher than the nominal one by more than chance."""
        return self.sets is not None and self.sets.difference > ERRORS * self.sets.error

    @property
    def is_kept(self) -> bool:
        """True if the bundle keeps the plan."""
        return self.plan is not None and self.weak_teacher is None


def keep_for_same_body(writer: Writer, graph: str, result: FitResult, command: str) -> None:
    """Add the plan of a fit to the writer's bundle, replace a plan for the same use, and commit.

    graph: the hash of the graph that was fitted. Raises UserError if the body has changed since then.
    """
    bundle, plan = writer.opened, result.plan
    assert bundle is not None, "the bundle exists"
    assert plan is not None, "it is kept"
    manifest = bundle.manifest
    if graph_of_fit(manifest, BODY) != graph:
        raise UserError(f"the body {BODY} of {bundle.path} changed during the fit", "fit it again")
    entry = FittedPlan(
        evaluations=len(plan.steps),
        body=result.body,
        file=writer.add(encode(plan), "plans", f"fitted-{len(plan.steps)}-{result.body}", ".json"),
        nominal=result.nominal,
        teacher=result.teacher,
        nominal_psnr=round(result.nominal_psnr, 3),
        psnr=round(result.nominal_psnr + result.on_judge.mean, 3),
        error=round(result.on_judge.error, 3),
        seeds=result.judge_seeds,
        judged=None if result.score is None else result.score.fitted,
    )
    others = (each for each in manifest.fitted if each.body != entry.body or use_of_entry(bundle, each) != use_of(plan))
    commands = (*(each for each in manifest.provenance.commands if each != command), command)
    provenance = msgspec.structs.replace(manifest.provenance, commands=commands)
    writer.commit(msgspec.structs.replace(manifest, fitted=(*others, entry), provenance=provenance))
