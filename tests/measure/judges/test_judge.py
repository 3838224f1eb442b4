"""A judge: what it gets, what it may return, and the score with its limit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.measure.judges.judge import Judge, SamplePairs, judge_of_call
from fewstep.measure.judges.options import JudgeOptions, open_judge
from fewstep.measure.rollouts.quality_range import mean_range, share_range
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_call import resolve_call
from fewstep.runtime.bundle.figures import Figure, JudgeScore
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.units import Affine
from tests.bundles import change_bundle
from tests.refusals import refuses

REFERENCE = np.arange(8, dtype=np.float32).reshape(4, 2)
PAIRS = SamplePairs(REFERENCE + np.float32([[1], [2], [3], [6]]), REFERENCE, {"class": np.arange(4)})


def judge_by(function: Callable[..., Any]) -> Judge:
    return Judge("own.py:near", "hash", function)


def write(folder: Path, code: str, name: str = "own.py") -> Path:
    file = folder / name
    file.write_text(f"import numpy as np\n\n\ndef near(samples, reference, conditions):\n{code}\n")
    return file


class Tensor:
    """A tensor of torch that needs a gradient."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def __repr__(self) -> str:
        return "Tensor of a gradient"


def near(samples: Any, reference: Any, conditions: Any) -> tuple[Any, float]:
    """Minus the largest difference of each sample, where the limit is -3."""
    return -np.abs(samples - reference).max(1), -3


def test_one_score_for_each_sample_has_a_mean_and_a_range() -> None:
    judged = judge_by(near).judge(PAIRS)
    problem = "scores -3 by own.py:near, less than -3"
    assert judged.score == Figure("own.py:near", -3.0, -3.0, False, problem) and judged.problem is None
    assert judged.float32.value == 0.0
    assert (judged.seeds, judged.sha256) == (4, "hash")
    assert judged.score_range == mean_range([-1, -2, -3, -6])
    assert judged.text == "scores -3 (-6.539 to 0.539) by own.py:near, at least its limit -3"


def test_one_score_of_all_samples_has_no_range() -> None:
    judged = judge_by(lambda *given: (-np.abs(given[0] - given[1]).max(), -3)).judge(PAIRS)
    assert (judged.score.value, judged.score_range) == (-6.0, None)
    assert judged.problem == "scores -6 by own.py:near, less than -3"


def test_a_share_of_successes_has_a_range_even_if_all_succeed() -> None:
    """64 of 64 successes do not promise that all others succeed."""
    assert share_range([1.0] * 64) == (pytest.approx(0.915, abs=1e-3), 1.0)
    assert share_range([1.0, 0.0]) is None
    judged = judge_by(lambda samples, *_: (samples[:, 0] > -1, 0.9)).judge(PAIRS)
    assert judged.score.value == 1.0 and judged.score_range is not None and judged.score_range[0] < 0.9


def test_numbers_of_0_and_1_are_no_successes() -> None:
    """Samples that are all equal to float32's have a similarity of 1.0, which is not a share of successes."""
    judged = judge_by(lambda samples, *_: (np.ones(len(samples)), 0.99)).judge(PAIRS)
    assert judged.score_range == (1.0, 1.0)


def test_float32_is_blamed_if_it_misses_the_limit_itself() -> None:
    judged = judge_by(lambda samples, *_: (-samples.mean(), -3.0)).judge(PAIRS)
    assert judged.problem == (
        "scores -6.5 by own.py:near, less than -3, but float32 itself scores -3.5 by own.py:near, less than -3"
    )


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (0.5, "returned 0.5"),
        ("ab", "returned str of length 2"),
        (b"ab", "returned b'ab'"),
        (np.ones(2), "returned ndarray [2]"),
        ((1, 2, 3), "returned tuple of length 3"),
        ((np.nan, 1), "returned the score nan"),
        ((np.inf, 1), "returned the score inf"),
        ((np.ones(3), 1), "returned ndarray [3] as the score of 4 samples"),
        ((np.ones((4, 1)), 1), "returned ndarray [4, 1] as the score of 4 samples"),
        (([[1], [1, 2]], 1), "returned list of length 2 as its score"),
        (("high", 1), "returned str of length 4 as the score"),
        ((None, 1), "returned None as the score"),
        ((1j, 1), "returned 1j as the score"),
        ((Tensor(), 1), "returned Tensor of a gradient as its score"),
        ((1, None), "returned None as its limit"),
        ((1, True), "returned True as its limit"),
        ((1, np.nan), "returned nan as its limit"),
        ((1, np.ones(4)), "returned ndarray [4] as its limit"),
        ((1, 10**400), "returned a value that cannot be read (OverflowError)"),
        ((np.ma.masked_equal([1, 2, 3, 4], 4), 1), "masked some of its scores"),
    ],
)
def test_what_no_judge_may_return_is_named(returned: Any, said: str) -> None:
    with refuses(("judge own.py:near", said), "return"):
        judge_by(lambda *given: returned).judge(PAIRS)


def test_samples_of_several_sizes_are_an_array_of_arrays() -> None:
    parts = [SamplePairs(np.ones((2, size)), np.zeros((2, size)), {"text": np.zeros((2, size, 3))}) for size in (2, 5)]
    judged = judge_by(lambda samples, *_: ([len(sample) for sample in samples], 3)).judge(SamplePairs.join(parts))
    assert (judged.score.value, judged.seeds) == (3.5, 4)


def test_a_judge_of_a_file_gets_samples_in_the_units_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    file = write(tmp_path, "    return samples.mean(axis=(1, 2, 3)) + conditions['class'], 7")
    samples = np.ones((2, *manifest.x_shape), np.float32)
    pairs = SamplePairs(samples, samples, {"class": np.array([1, 2])})
    assert open_judge(f"{file}:near", manifest).judge(pairs).score.value == 2.5
    width = manifest.x_shape[-1]
    change_bundle(tiny_bundle, units=Affine(scale=(2.0,) * width, shift=(3.0,) * width))
    judged = JudgeOptions(judge=f"{file}:near").open_judge(open_bundle(tiny_bundle))
    assert judged is not None and judged.judge(pairs).score.value == 6.5


def test_the_error_of_a_judge_is_one_line_with_the_line_of_its_file(tiny_bundle: Path, tmp_path: Path) -> None:
    judge = open_judge(
        f"{write(tmp_path, '    return 1 / len(conditions), 2')}:near", open_bundle(tiny_bundle).manifest
    )
    with refuses(("own.py:near failed: ZeroDivisionError", "line 5")):
        judge.judge(SamplePairs(np.ones((2, 3)), np.ones((2, 3)), {}))


def test_a_judge_cannot_change_the_samples_that_others_use(tiny_bundle: Path, tmp_path: Path) -> None:
    judge = open_judge(f"{write(tmp_path, '    samples -= 1')}:near", open_bundle(tiny_bundle).manifest)
    with refuses("read-only"):
        judge.judge(PAIRS)


def test_nor_can_a_tensor_of_torch_that_shares_their_memory() -> None:
    """torch ignores that an array is read-only, as does an array that its owner makes writeable again."""

    def clamp(samples: Any, reference: Any, conditions: Any) -> tuple[float, float]:
        for array in (samples, reference):
            array.flags.writeable = True
            array[...] = 0
        return 1.0, 0.5

    pairs = SamplePairs(np.ones((2, 3)), np.ones((2, 3)), {})
    judge_by(clamp).judge(pairs)
    assert pairs.samples.all() and pairs.reference.all()


def test_the_name_has_no_folder_and_the_hash_is_that_of_all_its_files(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    (tmp_path / "limit.py").write_text("LIMIT = 1\n")
    file = write(tmp_path, "    from limit import LIMIT\n    return LIMIT, 1")
    file.write_text(f"from limit import LIMIT\n{file.read_text()}")
    first = open_judge(f"{file}:near", manifest)
    assert first.name == "own.py:near" and {*first.files} == {file, tmp_path / "limit.py"}
    (tmp_path / "limit.py").write_text("LIMIT = 2\n")
    assert open_judge(f"{file}:near", manifest).sha256 != first.sha256
    (tmp_path / "limit.py").write_text("LIMIT = 1\n")
    assert open_judge(f"{file}:near", manifest).sha256 == first.sha256
    installed = judge_of_call("psnr", resolve_call("judge", "fewstep.measure.rollouts.metrics:psnr", 2), near)
    assert len(installed.sha256) == 64 and [path.name for path in installed.files] == ["metrics.py"]


@pytest.mark.parametrize("name", ["near", "partly"])
def test_a_judge_may_be_any_callable_object(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from functools import partial\n\n\nclass Near:\n    def __call__(self, samples, reference, conditions):\n"
        "        return 1.0, 0.5\n\n\nnear = Near()\npartly = partial(Near.__call__, near)\n"
    )
    judge = open_judge(f"{file}:{name}", open_bundle(tiny_bundle).manifest)
    assert judge.files == (file,) and judge.judge(PAIRS).score.value == 1.0


@pytest.mark.parametrize(("text", "files"), [("numpy.ma:hypot", ["core.py"]), ("numpy.random:normal", [])])
def test_a_judge_of_a_package_may_be_an_object_or_compiled(tiny_bundle: Path, text: str, files: list[str]) -> None:
    judge = open_judge(text, open_bundle(tiny_bundle).manifest)
    assert [file.name for file in judge.files] == files


def test_compiled_code_without_a_signature_is_one_line(tiny_bundle: Path) -> None:
    with refuses("judge numpy.linalg:LinAlgError cannot be called: no signature"):
        open_judge("numpy.linalg:LinAlgError", open_bundle(tiny_bundle).manifest)


@pytest.mark.parametrize("text", ["fine", "PSNR:40", ""])
def test_an_unknown_judge_is_refused_by_name(tiny_bundle: Path, text: str) -> None:
    with refuses(f"unknown judge {text!r}", ("FILE.py:FUNCTION", "features", "task:")):
        open_judge(text, open_bundle(tiny_bundle).manifest)


def test_arguments_of_the_text_follow_those_of_a_judge(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def near(samples, reference, conditions, limit: float):\n    return 1.0, limit\n")
    judge = open_judge(f"{file}:near:0.5", open_bundle(tiny_bundle).manifest)
    assert (judge.name, judge.judge(PAIRS).score.limit) == ("own.py:near:0.5", 0.5)
    with pytest.raises(UserError, match="own.py:near cannot be called"):
        open_judge(f"{file}:near", open_bundle(tiny_bundle).manifest)


def test_a_score_needs_no_more_than_its_limit() -> None:
    figure = Figure("own", 0.5, 0.5, False, "scores 0.5")
    assert JudgeScore(figure, figure, "", 4).problem is None
