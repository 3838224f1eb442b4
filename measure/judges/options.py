"""The option that names a judge, and the judge that a text names."""

from dataclasses import dataclass

from fewstep.measure.judges.judge import Conditions, Judge, Values, judge_of_call
from fewstep.measure.rollouts.record_sizes import join_rows
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_call import resolve_call
from fewstep.plans.names.user_code import split_code
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.units import to_units
from fewstep.runtime.options import Options

FEATURES, TASK = "features", "task"  # the judges that come with fewstep
CHOICE = f"give FILE.py:FUNCTION, {FEATURES}, {FEATURES}:FILE.onnx or {TASK}:FILE.py:FUNCTION,LIMIT"


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(Options):
    """A measure of samples.

    judge: Your own measure of samples, which decides instead of PSNR: FILE.py:FUNCTION, features, or
        task:FILE.py:FUNCTION,LIMIT.
    """

    judge: str | None = None

    def open_judge(self, bundle: Bundle) -> Judge | None:
        """Return the judge for samples of a bundle; None if the options name none. Raises UserError if it cannot judge
        them."""
        return None if self.judge is None else open_judge(self.judge, bundle.manifest)


def open_judge(text: str, manifest: Manifest) -> Judge:
    """Return the judge that a text names: FILE.py:FUNCTION[:ARGUMENTS] or PACKAGE.MODULE:NAME, whose arguments follow
    those of a judge; features[:FILE.onnx][,LIMIT]; or task:FILE.py:FUNCTION[:ARGUMENTS],LIMIT.

    Raises UserError if there is no such judge, or if it cannot judge samples of this bundle.
    """
    name, _, rest = text.partition(":")
    if name == FEATURES:
        from fewstep.measure.judges.features import open_feature_judge  # loads an engine

        return open_feature_judge(rest, manifest)
    if name == TASK:
        from fewstep.measure.judges.task import open_task_judge

        return open_task_judge(rest, manifest)
    if split_code(text) is None:
        raise UserError(f"unknown judge {text!r}", CHOICE)
    call = resolve_call("judge", text, 3)

    def score(samples: Values, reference: Values, conditions: Conditions) -> object:
        ours, exact = (_convert_to_units(manifest, values) for values in (samples, reference))
        return call.function(ours, exact, conditions, *call.arguments)

    return judge_of_call(call.text, call, score)


def _convert_to_units(manifest: Manifest, samples: Values) -> Values:
    """Return samples in the units of the bundle; unchanged if it states none."""
    if manifest.units is None:
        return samples
    if samples.dtype != object:
        return to_units(manifest, samples)
    return join_rows([to_units(manifest, sample[None]) for sample in samples])
