"""A judge: a user's own measure of samples, which decides instead of PSNR whether a body or a plan is good enough.

A judge is a function `(samples, reference, conditions) -> (score, limit)`.

- samples, reference: those of a body and of float32 from the same N seeds, [N, *x_shape]. They are in the units of the
  bundle if it states some (a policy's actions), otherwise as `Sampler.sample` returns them: in model range and not
  clamped, or int64 ids for tokens. If their sizes differ, they are arrays [N] of arrays. They are read-only.
- conditions: the values of each condition [N, *shape] by name.
- score: a number for all samples, or one for each of them [N]. Higher is better.
- limit: the lowest mean score that is good enough.

It is called once with the samples of the body, and once with the reference in their place, which scores float32 itself.
It draws no samples: it gets those that are compared with float32 anyway.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.quality_range import mean_range, share_range
from fewstep.measure.rollouts.record_sizes import join_rows
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_call import NamedCall
from fewstep.plans.names.user_file import digests_of
from fewstep.runtime.bundle.figures import Figure, JudgeScore
from fewstep.runtime.bundle.reading import file_sha256

Values = NDArray[Any]
Conditions = Mapping[str, Values]
RETURNS = "return (score, limit): a number or one for each sample [N], higher is better, and the lowest that is enough"


@dataclass(frozen=True)
class SamplePairs:
    """Samples and references [N, *x_shape] from the same seeds, and the values [N, *shape] of their conditions."""

    samples: Values
    reference: Values
    conditions: Conditions

    @classmethod
    def join(cls, parts: "Sequence[SamplePairs]") -> "SamplePairs":
        """Join parts, each of samples of one size."""
        names = parts[0].conditions
        return cls(
            join_rows([part.samples for part in parts]),
            join_rows([part.reference for part in parts]),
            {name: join_rows([part.conditions[name] for part in parts]) for name in names},
        )


class Scores(NamedTuple):
    """What a judge returned. `values` are [N], or [] for one score of all samples: booleans if they are successes,
    otherwise float64. `limit` is the lowest mean that is good enough."""

    values: Values
    limit: float


@dataclass(frozen=True)
class Judge:
    """A judge.

    name: the text by which the user named it, without folders. sha256: the hash of its files. function: see the top of
        this file. files: those of its code, and files that it reads by its arguments.
    """

    name: str
    sha256: str
    function: Callable[[Values, Values, Conditions], object]
    files: tuple[Path, ...] = ()

    def judge(self, pairs: SamplePairs) -> JudgeScore:
        """Return the score of the samples, and that of the references themselves. Raises UserError if the judge fails
        or returns something else."""
        ours, exact = (self.score(samples, pairs) for samples in (pairs.samples, pairs.reference))
        return self.summarize(ours, exact, len(pairs.samples))

    def summarize(self, scores: Scores, exact: Scores, seeds: int) -> JudgeScore:
        """Return the mean of the scores of samples, and of the scores `exact` of their references."""
        return JudgeScore(
            score=self._figure(scores),
            float32=self._figure(exact),
            sha256=self.sha256,
            seeds=seeds,
            score_range=_range(scores.values),
        )

    def score(self, samples: Values, pairs: SamplePairs) -> Scores:
        """Return the scores of samples with the references and the conditions of `pairs`."""
        arguments = _read_only(samples), _read_only(pairs.reference)
        returned = self.function(*arguments, {name: _read_only(values) for name, values in pairs.conditions.items()})
        try:
            return self._read(returned, len(samples))
        except UserError:
            raise
        except Exception as error:  # of a method of the user's object, or a number that is too large for a float
            what = f"judge {self.name} returned a value that cannot be read ({type(error).__name__})"
            raise UserError(what, RETURNS) from error

    def _read(self, returned: object, count: int) -> Scores:
        if not isinstance(returned, Sequence) or isinstance(returned, str | bytes) or len(returned) != 2:
            raise UserError(f"judge {self.name} returned {_describe(returned)}", RETURNS)
        score, limit = returned
        return Scores(self._read_score(score, count), self._read_limit(limit))

    def _read_score(self, score: object, count: int) -> Values:
        try:
            values = np.asarray(score)
        except (ValueError, TypeError, RuntimeError):  # rows of different lengths, tensors on a GPU or with a gradient
            raise UserError(f"judge {self.name} returned {_describe(score)} as its score", RETURNS) from None
        if values.dtype.kind not in "biuf" or values.shape not in ((), (count,)):
            what = f"judge {self.name} returned {_describe(score)} as the score of {count} samples"
            raise UserError(what, RETURNS)
        if np.ma.is_masked(score):
            raise UserError(f"judge {self.name} masked some of its scores", "return a number for each sample")
        if not np.isfinite(values).all():
            bad = float(values[~np.isfinite(values)][0])
            fix = "return finite numbers, such as min(score, 200) for a ratio that equal samples make infinite"
            raise UserError(f"judge {self.name} returned the score {bad}", fix)
        return values if values.dtype == bool else values.astype(np.float64)

    def _read_limit(self, limit: object) -> float:
        if isinstance(limit, bool | np.bool) or not isinstance(limit, Real | np.number) or not isfinite(limit):
            raise UserError(f"judge {self.name} returned {_describe(limit)} as its limit", RETURNS)
        return float(limit)

    def _figure(self, scores: Scores) -> Figure:
        score, limit = float(scores.values.mean()), scores.limit
        return Figure(self.name, score, limit, False, f"scores {score:.6g} by {self.name}, less than {limit:.6g}")


def judge_of_call(name: str, call: NamedCall, function: Callable[[Values, Values, Conditions], object]) -> Judge:
    """Return a judge by the user's code. Its files are that of the call's function, with those that it imports from its
    folder, and files among the call's arguments."""
    digests = dict[Path, str]()
    for file in call.files or _source_files(call.function):
        loaded = digests_of(file)
        digests |= {path: loaded[path] for path in sorted(loaded)} or {file.absolute(): file_sha256(file)}
    return Judge(name, sha256(" ".join(digests.values()).encode()).hexdigest(), function, tuple(digests))


def _source_files(function: Callable[..., object]) -> tuple[Path, ...]:
    """Return the file of an installed function, or that of the class of a callable object; () for compiled code."""
    plain = inspect.unwrap(function)
    for code in (plain, type(plain)):
        with suppress(TypeError):  # an object that is no function, or compiled code
            source = inspect.getsourcefile(code)
            return () if source is None else (Path(source),)
    return ()


def _range(values: Values) -> tuple[float, float] | None:
    """Return the range of the mean score on other seeds, or that of a share for booleans; None for one score of all
    samples, and for few seeds."""
    if not values.ndim:
        return None
    return share_range(values.tolist()) if values.dtype == bool else mean_range(values.tolist())


def _read_only(array: Values) -> Values:
    """Return a copy, or an array of copies, that cannot be written to. Others use the same samples, and a tensor of
    torch that shares the memory of an array ignores that it is read-only."""
    copied = array.copy()
    if copied.dtype == object:
        for place, row in enumerate(array):
            copied[place] = _read_only(row)
    copied.flags.writeable = False
    return copied


def _describe(value: object) -> str:
    """Return a value, or the type and the shape of a large one, as text."""
    shape = getattr(value, "shape", None)
    if shape:
        return f"{type(value).__name__} {[*shape]}"
    if isinstance(value, str | list | tuple | dict):
        return f"{type(value).__name__} of length {len(value)}"
    return " ".join(repr(value).split())[:80]
