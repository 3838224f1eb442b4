"""Evaluating a tiny bundle whose int8 body has a known error."""

import logging

import msgspec
import numpy as np
import pytest

from fewstep.graph.files.commit import open_for_update
from fewstep.measure import cost, judged_task, judgement_options, measurement
from fewstep.measure import results as forms
from fewstep.measure.distances.frechet import fit_gaussian, frechet_distance
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import APART, PAIRED, held_out_conditions
from fewstep.measure.workers.process_pool import ProcessPool
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import NetworkEntry
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from tests.refusals import refuses
from tests.report.extractors import write_extractor
from tests.report.judged_bundle import SHAPE, make_bundle
from tests.runtime.sampling.test_fitted_plans import give

BODY = "int8-cpu-x86"
PLAN = "dpmpp_2m:4"
MATRIX = np.random.default_rng(0).normal(size=(64, 3))


def options(bundle, **changes):
    few = {"columns": ("psnr", "fd"), "seeds": 20, "samples": 120, "teacher_seeds": 5, "resamples": 20, "threads": 1}
    return MeasureOptions(bundle, **{"teacher": "dpmpp_2m:12", **few, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, and its evaluation with a given extractor and data."""
    folder = tmp_path_factory.mktemp("measure")
    extractor = write_extractor(folder / "mine.onnx", MATRIX)
    np.save(folder / "real.npy", np.random.default_rng(1).integers(256, size=(150, *SHAPE)).astype(np.uint8))
    bundle = make_bundle(folder / "tiny")
    return bundle, measure(options(bundle, features=str(extractor), data=folder / "real.npy"))


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "tiny")


def samples_of(bundle, body, seeds):
    conditions = held_out_conditions(open_bundle(bundle).manifest, seeds)
    return load(bundle, body=body).sample(PLAN, seeds, conditions, 2.0)


def test_figures_are_those_of_the_samples_made_at_once(made):
    bundle, results = made
    (own,) = results.qualities
    exact, int8 = (samples_of(bundle, body, PAIRED[:120]) for body in ("float32", BODY))
    assert own.against_float.values == pytest.approx(psnr(int8[:20], exact[:20]))
    assert own.against_float.seeds == 20 and own.against_teacher.seeds == 5 and own.against_float.ssim is None  # 8x8
    features, paired, apart = (
        np.clip(x, -1, 1).reshape(120, -1) @ MATRIX for x in (int8, exact, samples_of(bundle, "float32", APART[:120]))
    )
    first = own.distances[0]
    assert first.frechet == pytest.approx(frechet_distance(fit_gaussian(features), fit_gaussian(apart)), rel=1e-3)
    assert (
        first.frechet_float
        == first.noise_floor
        == pytest.approx(frechet_distance(fit_gaussian(paired), fit_gaussian(apart)), rel=1e-3)
    )
    assert first.low < first.difference < first.high


def test_references_are_named_and_each_has_its_own_row(made):
    _, results = made
    (own,) = results.qualities
    assert (own.body, own.computed_by, results.plan, results.guidance) == (BODY, "onnxruntime", PLAN, "2")
    assert [distance.reference for distance in own.distances] == ["float32, dpmpp_2m:4, other seeds", "real"]
    assert [(distance.samples, distance.references) for distance in own.distances] == [(120, 120), (120, 150)]
    assert own.distances[1].noise_floor == own.distances[0].noise_floor  # of float32, whatever the references
    assert own.against_teacher.reference == results.float_against_teacher.reference == "float32, dpmpp_2m:12"
    assert (results.features.name, results.features.size) == ("mine", 3) and results.features.bias > 0
    assert results.command.endswith(
        "--features mine.onnx --data real.npy --resamples 20 --threads 1 --teacher dpmpp_2m:12 --seeds 20 "
        "--teacher-seeds 5"
    )


def test_the_bundle_keeps_the_figures(made):
    bundle, results = made
    opened = open_bundle(bundle)
    stored = opened.read(opened.manifest.evaluation)
    assert forms.decode(stored) == results and b'"engine": "onnxruntime"' in stored and stored.count(b'"floor": ') == 2
    assert results.qualities[0].graphs == (opened.body(BODY).graph.file,)


def test_another_plan_needs_a_file_and_leaves_the_bundle_as_it_is(bundle, tmp_path):
    with refuses("figures of that plan", "--output"):
        measure(options(bundle, plan="ddim:3"))
    results = measure(options(bundle, plan="ddim:3", output=tmp_path / "other.json"))
    assert results.plan == "ddim:3" and open_bundle(bundle).manifest.evaluation is None
    assert forms.decode((tmp_path / "other.json").read_bytes()) == results


def test_without_an_extractor_there_are_pairs_only(bundle):
    results = measure(options(bundle))  # none is known for this bundle's data
    assert results.features is None and results.qualities[0].distances == ()
    assert results.qualities[0].against_float.seeds == 20


def test_bodies_of_other_engines_are_evaluated_when_asked_for(bundle):
    (own,) = measure(options(bundle, body=("int8-tensorrt",), seeds=6)).qualities
    assert own.body == "int8-tensorrt" and "simulated" in own.computed_by


def test_what_cannot_be_asked_is_reported_before_anything_is_sampled(bundle, tmp_path):
    for changes, what in (
        ({"samples": 50}, "--samples is 50"),
        ({"samples": 60_000}, "--samples is 60000"),
        ({"resamples": 5}, "--resamples is 5"),
        ({"body": ("int8-other",)}, "has no int8 body 'int8-other'; give some of int8-cpu-x86"),
        ({"data": tmp_path / "x.npy"}, "--data without an extractor"),
        ({"output": tmp_path / "no" / "x.json"}, "there is no folder"),
    ):
        with pytest.raises(UserError, match=what):
            measure(options(bundle, **changes))


@pytest.mark.parametrize("field", ["bodies", "networks"])
def test_a_bundle_that_changes_meanwhile_gets_no_figures(bundle, field):
    """A change of the denoiser's bodies, or of another network's."""
    manifest = open_bundle(bundle).manifest
    others = {name: body for name, body in manifest.bodies.items() if name != "int8-tensorrt"}
    noisy = NetworkEntry(0.0, manifest.prediction, {"class": "class"}, manifest.bodies, "", "0" * 64)
    networks = {"noisy": msgspec.structs.replace(noisy, prologue=manifest.prologue)}
    changed = msgspec.structs.replace(manifest, **{field: {"bodies": others, "networks": networks}[field]})

    def change(*_):
        with open_for_update(bundle, must_exist=True) as writer:
            writer.commit(changed)

    with pytest.raises(UserError, match="was changed while it was measured"):
        measure(options(bundle, columns=("psnr",)), change)
    assert open_bundle(bundle).manifest.evaluation is None


def test_conditions_of_a_file_are_sampled(bundle, tmp_path):
    np.savez(tmp_path / "own.npz", **{"class": np.array([7, 2, 9])})
    results = measure(options(bundle, conditions=tmp_path / "own.npz", seeds=5))
    own = {"class": [7, 2, 9, 7, 2]}
    exact, int8 = (load(bundle, body=body).sample(PLAN, range(5), own, 2.0) for body in ("float32", BODY))
    assert results.qualities[0].against_float.values == pytest.approx(psnr(int8, exact))


def test_bodies_are_timed_on_the_conditions_that_were_judged(bundle, tmp_path, monkeypatch):
    """Nothing is drawn for them, so no line says that nothing was given."""
    np.savez(tmp_path / "own.npz", **{"class": np.array([7, 2, 9])})
    timed = []
    monkeypatch.setattr(measurement, "run_races", lambda bundle, bodies, records, progress: timed.append(records) or ())
    monkeypatch.setattr(measurement, "given_conditions", None)
    measure(options(bundle, columns=("psnr", "ms"), conditions=tmp_path / "own.npz", seeds=5))
    np.testing.assert_array_equal(timed[0]["class"], [7, 2, 9])


@pytest.mark.slow
def test_workers_sample_bitwise_what_one_process_does(bundle, tmp_path, monkeypatch):
    asked = options(bundle, features=str(write_extractor(tmp_path / "mine.onnx", MATRIX)), output=tmp_path / "a.json")
    alone = measure(asked)
    real, held = judged_task.open_body, []
    for module in (judged_task, judgement_options):
        monkeypatch.setattr(module, "open_body", lambda *given: held.append(given[1]) or real(*given))
    monkeypatch.setattr(Sampler, "sample", lambda *_: pytest.fail("workers sample, for the teacher's check too"))
    with ProcessPool(2) as workers:
        spread = measure(asked, workers=workers)
    assert held == ["float32"]  # as is said before
    assert len(alone.qualities[0].distances) == 1 and alone.qualities[0].against_float.seeds > 16
    assert msgspec.structs.replace(spread, seconds=0.0) == msgspec.structs.replace(alone, seconds=0.0)


@pytest.mark.parametrize("short", ["activations", "memory"])
def test_large_bodies_see_the_samples_of_a_batch_one_by_one_with_the_same_figures(bundle, monkeypatch, short):
    """Two branches of 16 seeds are 32 rows, which the network runs at once, or one after the other."""
    rows: list[int] = []
    real = OnnxRuntime.load

    def load_counted(backend, bundle, name):
        network = real(backend, bundle, name)
        return lambda feeds: rows.append(len(feeds["x"])) or network(feeds) if "x" in feeds else network(feeds)

    monkeypatch.setattr(OnnxRuntime, "load", load_counted)
    asked = options(bundle, columns=("psnr",))
    whole = measure(asked)
    assert max(rows) == 32
    if short == "activations":
        monkeypatch.setattr(cost, "MOST_ACTIVATIONS", 10**4)
    else:
        monkeypatch.setattr(cost, "memory_free", lambda _: 10**7)
    rows.clear()
    by_rows = measure(asked)
    assert set(rows) == {1}
    assert msgspec.structs.replace(by_rows, seconds=0.0) == msgspec.structs.replace(whole, seconds=0.0)


def test_who_samples_is_no_part_of_the_command():
    asked = MeasureOptions("bundle", seeds=8, workers=2)
    assert asked.command_line("measure") == "fewstep measure BUNDLE --seeds 8"


def test_a_plan_that_was_fitted_to_the_body_is_run_on_both(bundle, tmp_path, caplog):
    give(bundle)
    give(bundle, body=BODY, numbers="ddim:3@quadratic")
    asked = options(bundle, plan="fitted:3", output=tmp_path / "found.json", body=BODY)
    with caplog.at_level(logging.WARNING, "fewstep"):
        results = measure(asked)
    assert "fitted" not in caplog.text and results.plan == "fitted:3"
    conditions = held_out_conditions(open_bundle(bundle).manifest, PAIRED[:20])
    given = "ddim:3@quadratic", PAIRED[:20], conditions, 2.0
    exact, int8 = (load(bundle, body=body).sample(*given) for body in ("float32", BODY))
    assert results.qualities[0].against_float.values == pytest.approx(psnr(int8, exact))


def test_bodies_with_plans_of_their_own_are_evaluated_one_by_one(bundle, tmp_path):
    give(bundle, body=BODY)
    other = next(name for name, body in open_bundle(bundle).manifest.bodies.items() if name != BODY and body.plan)
    give(bundle, body=other, numbers="ddim:3")
    asked = options(bundle, plan="fitted:3", output=tmp_path / "found.json", body=(BODY, other))
    with refuses(("fitted:3", other), f"--body {other}"):
        measure(asked)


def test_a_body_without_a_fitted_plan_takes_the_one_of_float32(bundle, tmp_path):
    give(bundle)
    assert measure(options(bundle, plan="fitted:3", output=tmp_path / "found.json", body=BODY)).plan == "fitted:3"
    with refuses((BODY, "'fitted:4'", "fitted:3"), ("dpmpp_2m:4", f"fewstep fit {bundle} --steps 4 --guidance 2")):
        measure(options(bundle, plan="fitted:4", output=tmp_path / "found.json", body=BODY))
