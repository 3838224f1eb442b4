"""Each usual mistake of a spec, made on purpose, is named, on exact denoisers of Gaussian data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.cli.main import main
from fewstep.export.spec import Spec
from fewstep.measure.spec.null_values import check_nulls
from fewstep.measure.spec.spec_check import check_spec
from fewstep.measure.spec.spec_mistakes import FLAG, TABLE_KINDS, SpecReading
from fewstep.measure.spec.spec_samples import DataSamples
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.refusals import refuses

SHAPE = (1, 6, 6)
RNG = np.random.default_rng(0)
MEANS = np.stack([np.full(SHAPE, -0.6), np.full(SHAPE, 0.6)])  # of two classes
LABELS = np.arange(32) % 2
DATA = (MEANS[LABELS] + 0.15 * RNG.normal(size=(32, *SHAPE))).astype(np.float32)
CLASSES, NULLS = {"class": LABELS}, {"class": np.full(32, 2)}
Network = Callable[..., Any]
STABLE = ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012)


def exact(
    kind: str | ScheduleSpec, prediction: str, reverse: bool = False, scale: float = 1.0
) -> tuple[Network, DenoiserFacts]:
    """The posterior mean of data with these classes as a network, and its facts. Class 2 stands for both."""
    spec = kind if isinstance(kind, ScheduleSpec) else ScheduleSpec(kind)  # type: ignore[arg-type]
    schedule = NoiseSchedule(spec)

    def network(x: np.ndarray, times: np.ndarray, conditions: dict[str, Any]) -> np.ndarray:
        network_time = float(times[0]) / scale
        network_time = schedule.path.first + schedule.path.last - network_time if reverse else network_time
        time = schedule.time(min(max(network_time, schedule.path.first), schedule.path.last))
        x = x / input_scale(prediction, time, spec)  # type: ignore[arg-type]
        labels = conditions["class"][: len(x)]
        variance = np.array([0.0225, 0.0225, 0.3825])[labels][:, None, None, None]  # of both: 0.15^2 + 0.6^2
        gain = variance * time.alpha / (variance * time.alpha**2 + time.sigma**2)
        means = np.concatenate([MEANS, np.zeros((1, *SHAPE))])[labels]
        x0 = means + gain * (x - time.alpha * means)
        a, b = x0_coefficients(prediction, time, spec)  # type: ignore[arg-type]
        return ((x0 - a * x) / b).astype(np.float32)

    return network, DenoiserFacts(spec, prediction)  # type: ignore[arg-type]


def verdict(network: Network, facts: DenoiserFacts, data: np.ndarray = DATA, nulls: Any = None) -> str:
    return check_spec(network, facts, data, CLASSES, nulls).mistake


FAMILIES = [("cosine", "v"), ("linear", "epsilon"), ("flow", "flow"), ("edm", "edm")]


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
def test_a_right_spec_seems_right_and_is_nearer_than_a_linear_denoiser(kind: str, prediction: str) -> None:
    """The negative output has the wrong sign."""
    network, facts = exact(kind, prediction)
    found = check_spec(network, facts, DATA, CLASSES, None)
    assert found.mistake == "" and all(error.error < 1.05 * error.linear for error in found.errors)
    assert "seems right" in str(found)
    assert verdict(lambda *asked: -network(*asked), facts) == "its output has the other sign"


@pytest.mark.parametrize(
    ("kind", "prediction", "stated"),
    [
        ("cosine", "v", "epsilon"),
        ("linear", "epsilon", "v"),
        ("linear", "sample", "epsilon"),
        ("cosine", "v", "sample"),
    ],
)
def test_another_prediction_is_named(kind: str, prediction: str, stated: Any) -> None:
    network, facts = exact(kind, prediction)
    assert verdict(network, DenoiserFacts(facts.schedule, stated)).startswith(f"prediction is '{prediction}'")


@pytest.mark.parametrize(
    ("own", "stated", "said"),
    [
        ("cosine", ScheduleSpec("linear"), "its schedule is 'cosine'"),
        ("linear", ScheduleSpec("cosine"), "its schedule is 'linear'"),
        ("linear", ScheduleSpec("sigmoid"), "its schedule is 'linear', not 'sigmoid'"),
        ("linear", STABLE, "its schedule is 'linear', not 'scaled-linear'"),
        ("linear", ScheduleSpec("linear", timesteps=100), "its schedule is 'linear' of timesteps=1000, not 'linear' o"),
        ("linear", ScheduleSpec("linear", beta_end=0.01), "its schedule is 'linear' of beta_end=0.02, not 'linear' of"),
    ],
)
def test_another_schedule_is_named(own: str, stated: ScheduleSpec, said: str) -> None:
    network, _ = exact(own, "epsilon")
    assert verdict(network, DenoiserFacts(stated, "epsilon")).startswith(said)


@pytest.mark.parametrize(
    ("own", "stated", "prediction"),
    [("sigmoid", "cosine", "v"), ("scaled-linear", "cosine", "v"), ("cosine", "sigmoid", "sample")],
)
def test_another_schedule_that_denoises_as_well_is_unknown(own: str, stated: str, prediction: Any) -> None:
    """On wide data the errors hardly depend on the time, but samples do."""
    network, _ = exact(own, prediction)
    found = check_spec(network, DenoiserFacts(ScheduleSpec(stated), prediction), DATA, NULLS)  # type: ignore[arg-type]
    assert found.mistake == "" and "schedule" not in found.decided
    assert f"whether its schedule is '{own}', not '{stated}'" in found.unknown


@pytest.mark.parametrize(
    ("beta_end", "prediction"), [(0.016, "epsilon"), (0.022, "epsilon"), (0.022, "sample"), (0.024, "v")]
)
def test_other_parameters_of_the_schedule_that_denoise_as_well_are_unknown(beta_end: float, prediction: Any) -> None:
    """With 0.022, zero_terminal_snr=True would fit too, but epsilon has no samples there."""
    network, _ = exact(ScheduleSpec("linear", beta_end=beta_end), prediction)
    found = check_spec(network, DenoiserFacts(ScheduleSpec("linear"), prediction), DATA, CLASSES)
    assert (found.mistake, found.unknown) == ("", ("whether its schedule has other parameters",))


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
def test_every_fact_is_decided_on_narrow_data(kind: str, prediction: str) -> None:
    found = check_spec(*exact(kind, prediction), DATA, CLASSES, None)
    facts = ["prediction", "sign", "schedule", "zero_terminal_snr", "time factor", "time direction"]
    assert found.unknown == ()
    assert [*found.decided] == [*(each for each in facts if kind in TABLE_KINDS or each != FLAG), "range of the data"]


def test_another_family_is_named_by_both() -> None:
    network, facts = exact("linear", "epsilon")
    said = "its schedule is 'linear', not 'flow', and prediction is 'epsilon', not 'flow'"
    assert verdict(network, exact("flow", "flow")[1]) == said
    network, _ = exact("flow", "flow")
    said = "its schedule is 'flow', not 'linear', and prediction is 'flow', not 'epsilon'"
    assert verdict(network, facts) == said


def test_a_wrong_network_time_is_named() -> None:
    assert "1000 times the time" in verdict(*exact("flow", "flow", scale=1000.0))
    network, facts = exact("flow", "flow", reverse=True)
    assert verdict(network, facts) == "its time runs from noise to data"
    assert verdict(lambda *given: -network(*given), facts).endswith("data, and its output has the other sign")


@pytest.mark.parametrize(("scale", "said"), [(10.0, "10 times the time"), (0.1, "1/10 times the time")])
@pytest.mark.parametrize(("kind", "prediction"), [("cosine", "v"), ("linear", "sample"), ("linear", "epsilon")])
def test_times_of_another_number_of_timesteps_are_named(kind: str, prediction: str, scale: float, said: str) -> None:
    assert said in verdict(*exact(kind, prediction, scale=scale))


@pytest.mark.parametrize("own", ["linear", STABLE])
def test_another_family_of_the_same_prediction_is_named(own: str | ScheduleSpec) -> None:
    """Predictions of x0 hardly change with the scale of x, so that they look right on another family's schedule."""
    network, _ = exact(own, "sample")
    said = "its schedule is 'linear', not 'flow'"
    assert verdict(network, DenoiserFacts(ScheduleSpec("flow"), "sample")) == said


@pytest.mark.parametrize(
    ("data", "said"),
    [((DATA + 1) / 2, "the data are in [0, 1], and"), ((DATA + 1) * 127.5, "the data are in [0, 255]")],
)
def test_the_range_of_the_data_is_named(data: np.ndarray, said: str) -> None:
    assert verdict(*exact("linear", "epsilon"), data).startswith(said)


def test_null_values_that_stand_for_a_class_are_named() -> None:
    network, facts = exact("cosine", "v")
    right = check_spec(network, facts, DATA, CLASSES, NULLS)
    assert (right.mistake, right.unknown) == ("", ())
    assert "null is another value" in verdict(network, facts, nulls={"class": np.zeros(32, int)})


def of_levels(scale: float, class_of_null: int | None) -> Network:
    """The posterior mean of data with the classes -2, -1, 0, 1 and 2, times `scale`, as a network of x0; class 5 is
    none, or stands for `class_of_null`."""
    schedule, levels = NoiseSchedule(ScheduleSpec("cosine")), scale * np.arange(-2.0, 3.0)

    def network(x: np.ndarray, times: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        time, known = schedule.time(float(times[0])), given["class"][: len(x)].copy()
        variance = 0.0225 * time.alpha**2 + time.sigma**2
        x, known = x.astype(np.float64), np.where(known == 5, 5 if class_of_null is None else class_of_null, known)
        means = np.broadcast_to(levels[:, None, None, None, None], (5, *x.shape))
        distance = np.square(x - time.alpha * means).sum(axis=(2, 3, 4)) / variance
        weights = np.where(known == 5, np.exp(0.5 * (distance.min(axis=0) - distance)), np.arange(5)[:, None] == known)
        each = means + 0.0225 * time.alpha / variance * (x - time.alpha * means)
        mean: np.ndarray = ((weights / weights.sum(axis=0))[:, :, None, None, None] * each).sum(axis=0)
        return mean.astype(np.float32)

    return network


OTHERS = np.array([0, 1, 3, 4] * 8)  # the class in the middle has no samples


@pytest.mark.parametrize("scale", [0.3, 0.03])
def test_a_null_value_near_the_mean_of_the_data_is_not_called_right(scale: float) -> None:
    """A class between all others, of which the file has no samples, costs half as much as others at every time."""
    data = (0.15 * RNG.normal(size=(32, *SHAPE)) + scale * (OTHERS - 2.0)[:, None, None, None]).astype(np.float32)
    nulls, facts = {"class": np.full(32, 5)}, DenoiserFacts(ScheduleSpec("cosine"), "sample")
    of_class, of_null = (
        check_spec(of_levels(scale, each), facts, data, {"class": OTHERS}, nulls) for each in (2, None)
    )
    assert "null values" not in of_class.decided
    assert of_null.mistake == "" and "null values" in of_null.decided


@pytest.mark.parametrize(("offset", "is_right"), [(0.0, True), (0.58, False)])
def test_a_null_value_that_adds_too_much_is_in_doubt_though_x_shows_what_it_is(offset: float, is_right: bool) -> None:
    """Where there is little noise it predicts as right ones do. The offset is that of a branch trained too little."""
    stated, rows, network = SpecReading(ScheduleSpec("cosine"), "sample"), np.arange(32), of_levels(0.3, None)
    data = (0.15 * RNG.normal(size=(32, *SHAPE)) + 0.3 * (OTHERS - 2.0)[:, None, None, None]).astype(np.float32)

    def predict(x: np.ndarray, times: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        is_null = (given["class"][: len(x)] == 5)[:, None, None, None]
        return network(x, times, given) + np.float32(offset * (times[0] > 500)) * is_null  # type: ignore[no-any-return]

    result = check_nulls(predict, stated, data, {"class": OTHERS}, {"class": np.full(32, 5)}, rows)
    assert result.mistake == "" and (result.unknown == "") == is_right
    assert is_right or "they add too much error for right ones" in result.unknown


def test_a_null_value_that_samples_have_is_never_called_right() -> None:
    """It denoises as no class does, but a class that is like several others may do so too."""
    stated, rows, labels = SpecReading(ScheduleSpec("cosine"), "sample"), np.arange(32), OTHERS.copy()
    noise = 0.15 * np.random.default_rng(0).normal(size=(32, *SHAPE))
    data = (noise + 0.3 * (OTHERS - 2.0)[:, None, None, None]).astype(np.float32)
    nulls, network = {"class": np.full(32, 5)}, of_levels(0.3, None)
    right = check_nulls(network, stated, data, {"class": labels}, nulls, rows)
    assert (right.mistake, right.unknown) == ("", "")
    labels[:2] = 5
    unknown = check_nulls(network, stated, data, {"class": labels}, nulls, rows).unknown
    assert "whether null 5 of 'class' is the value of 2 of 32 samples because they are unlabelled" in unknown


def near(share: float) -> Network:
    """A network whose classes are nearer to their common mean: each class gets a `share` of its own output."""
    network, _ = exact("cosine", "v")

    def between(x: np.ndarray, times: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        return share * network(x, times, given) + (1 - share) * network(x, times, NULLS)  # type: ignore[no-any-return]

    return between


def test_a_null_value_that_samples_have_is_named_although_classes_change_the_errors_little() -> None:
    facts = exact("cosine", "v")[1]
    found = check_spec(near(0.05), facts, DATA, CLASSES, {"class": np.zeros(32, int)})
    said = "null 0 of 'class' is the value of 16 of 32 samples, and it denoises the others worse: null is another value"
    assert found.mistake == f"{said}, if the rest of the spec is right"


def test_null_values_are_not_called_right_if_classes_change_no_errors() -> None:
    facts = exact("cosine", "v")[1]
    said = "whether its null values are right, since the conditions hardly change the errors"
    assert said in check_spec(near(0.0), facts, DATA, CLASSES, NULLS).unknown
    assert "null values" in check_spec(near(0.05), facts, DATA, CLASSES, NULLS).decided
    found = check_spec(near(0.0), facts, DATA, CLASSES, {"class": np.zeros(32, int)})
    said = "whether null 0 of 'class' is the value of 16 of 32 samples because they are unlabelled, or because it is a"
    assert found.mistake == "" and f"the check cannot tell {said} class" in str(found)


def test_unlabelled_samples_that_have_the_null_value_are_no_mistake() -> None:
    network, facts = exact("cosine", "v")
    labels = np.where(np.arange(32) % 4 < 2, LABELS, 2)
    found = check_spec(network, facts, DATA, {"class": labels}, NULLS)
    assert found.mistake == "" and "null 2 of 'class' is the value of 16 of 32 samples because" in str(found)


CLASS, CURVE = Condition("class", "class", low=0, high=1, null=0), Condition("f0", "f0", (3,), "float32")
DENOISER: dict[str, Any] = {"name": "d", "x_shape": SHAPE, "prediction": "v", "schedule": ScheduleSpec("cosine")}


def test_a_null_value_is_checked_where_another_condition_keeps_its_value() -> None:
    samples = DataSamples(DATA, {**CLASSES, "f0": np.zeros((32, 3), np.float32)})
    shared = Spec(**DENOISER, conditions=(CLASS, replace(CURVE, shared=True)))
    assert "null is another value" in samples.check(exact("cosine", "v")[0], shared, {}).mistake


def test_every_verdict_has_its_figures() -> None:
    network, facts = exact("cosine", "v")
    right = check_spec(network, facts, DATA, CLASSES, NULLS)
    assert "; the errors are 0.19 times those of a linear denoiser (limit 1.2); null values add 0.42" in str(right)
    wrong = str(check_spec(lambda *asked: -network(*asked), facts, DATA, CLASSES))
    assert "its output has the other sign; the errors are " in wrong and "; the correction divides them by " in wrong


def test_a_null_value_without_an_unconditional_branch_is_not_called_right() -> None:
    samples = DataSamples(DATA, {**CLASSES, "f0": np.zeros((32, 3), np.float32)})
    found = samples.check(exact("cosine", "v")[0], Spec(**DENOISER, conditions=(CLASS, CURVE)), {})
    assert found.unknown == ("whether its null values are right, since 'f0' has none",)


def test_a_network_that_was_hardly_trained_is_like_no_mistake() -> None:
    noise = np.random.default_rng(1)
    found = verdict(lambda x, *_: noise.normal(size=x.shape).astype(np.float32), exact("cosine", "v")[1])
    assert "no usual mistake explains its errors" in found
    for scale in (0, 0.4):  # 0: read as v or edm, no output at all is as near as a linear denoiser
        network = lambda x, times, _: (scale * x + 1e-6 * times[0]).astype(np.float32)  # noqa: B023, E731
        found = verdict(network, exact("cosine", "epsilon")[1])
        assert found.startswith("no correction fits well; the best: prediction is ")


ZERO = replace(STABLE, zero_terminal_snr=True)


@pytest.mark.parametrize(("own", "stated"), [(ZERO, STABLE), (STABLE, ZERO)])
def test_another_flag_of_zero_terminal_snr_is_named(own: ScheduleSpec, stated: ScheduleSpec) -> None:
    """The errors alone do not show it: they differ by less than 10 %."""
    network, facts = exact(own, "v")
    found = check_spec(network, facts, DATA, CLASSES)
    assert (found.mistake, found.unknown) == ("", ())
    said = f"give the schedule zero_terminal_snr={own.zero_terminal_snr}: it was trained that way"
    assert verdict(network, DenoiserFacts(stated, "v")) == said


def test_a_flag_that_epsilon_cannot_have_is_named() -> None:
    """At zero SNR epsilon determines no x0."""
    network, _ = exact(STABLE, "epsilon")
    assert verdict(network, DenoiserFacts(ZERO, "epsilon")).startswith("give the schedule zero_terminal_snr=False")


def test_a_flag_of_zero_terminal_snr_that_cannot_be_checked_is_named() -> None:
    """From white data, and from a network between both."""
    cannot = "cannot tell whether the schedule has zero_terminal_snr=False"
    white = RNG.normal(size=(32, *SHAPE)).astype(np.float32)

    def of_white(x: np.ndarray, times: np.ndarray, _: Any) -> np.ndarray:
        return (x * 0 + 1e-4 * times[:, None, None, None]).astype(np.float32)  # v of white data is 0

    assert f"{cannot}, since the data vary like noise in all directions" in str(
        check_spec(of_white, DenoiserFacts(STABLE, "v"), white, CLASSES)
    )
    networks = [exact(spec, "v")[0] for spec in (STABLE, ZERO)]
    between = check_spec(
        lambda *asked: sum(network(*asked) for network in networks) / 2, DenoiserFacts(STABLE, "v"), DATA, CLASSES
    )
    assert between.mistake == "" and f"{cannot}: near the last timestep the network follows neither" in str(between)


def test_the_flag_of_a_schedule_that_ends_near_pure_noise_is_not_a_question() -> None:
    """The linear schedule's last alpha is 0.006."""
    for kind in ("linear", "cosine"):
        assert check_spec(*exact(kind, "v"), DATA, CLASSES).unknown == ()


def test_a_time_that_does_not_reach_the_network_is_named() -> None:
    network, facts = exact("cosine", "v")
    stuck = check_spec(lambda x, times, given: network(x, 0 * times + 500, given), facts, DATA, CLASSES)
    assert stuck.mistake.startswith("its output is the same at every time: the time does not reach the network, or, if")
    of_zeros = check_spec(lambda x, *_: 9 * x, facts, DATA, CLASSES).mistake
    assert (
        of_zeros.startswith("its output is the same at every time: ")
        and "no usual mistake explains its errors" in of_zeros
    )


def test_a_network_that_denoises_without_its_time_is_not_refused() -> None:
    """Some networks are trained so: here x has many elements, from which the noise level can be read."""
    network, facts = exact("flow", "flow")

    def blind(x: np.ndarray, times: np.ndarray, given: Any) -> np.ndarray:
        ratios = [float(np.mean((row - row.mean()) ** 2)) for row in x]  # 0.15^2 alpha^2 + sigma^2
        times = [1000 * max(np.roots([1.0225, -0.045, 0.0225 - ratio]).real.max(), 1e-3) for ratio in ratios]
        return np.concatenate(
            [
                network(row[None], np.array([time]), {"class": given["class"][i : i + 1]})
                for i, (row, time) in enumerate(zip(x, times, strict=True))
            ]
        )

    found = check_spec(blind, facts, DATA, CLASSES)
    assert found.mistake == "" and "cannot tell whether the time should reach the network" in str(found)


def test_one_sample_is_refused() -> None:
    with refuses("too few samples", "at least 2"):
        check_spec(*exact("cosine", "v"), DATA[:1], CLASSES, None)


def test_verify_checks_the_spec_of_a_bundle(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny bundle's network is not trained."""
    x = np.zeros((4, 1, 4, 4)) + np.arange(4).reshape(-1, 1, 1, 1)
    np.savez(tmp_path / "data.npz", x=x, **{"class": [0, 1, 2, 0]})
    assert main(["verify", str(tiny_bundle), "--data", str(tmp_path / "data.npz")]) == 1
    shown = capsys.readouterr().out
    assert "the spec seems wrong, or the network barely trained: " in shown and "linear denoiser" in shown
    for x, said in (
        (np.zeros((4, 1, 5, 5)), "other.npz has no samples x of the denoiser's shape, but float64 [4, 1, 5, 5]"),
        (np.full((4, 1, 4, 4), np.nan), "x of other.npz holds a number that is not finite; write finite numbers"),
    ):
        np.savez(tmp_path / "other.npz", x=x)
        assert main(["verify", str(tiny_bundle), "--data", str(tmp_path / "other.npz")]) == 1
        assert said in capsys.readouterr().err
