"""The figures of a whole call on the page, and why samples are not shown."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.cli.describe.results_table import format_results
from fewstep.measure import results as forms
from fewstep.measure.rollouts.metrics import psnr
from fewstep.report.call_figures import collect_call_figures, decode_samples, why_not_shown
from fewstep.report.call_time import body_files, describe_call
from fewstep.report.page import build_page, headline
from fewstep.report.report import report
from fewstep.report.sections.samples import Samples, samples_section
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.manifest import CallTime, Policy
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.calibration.latent_bundle import write_latent_bundle
from tests.report.judged_bundle import make_bundle
from tests.report.test_report import Page, options


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> forms.Results:
    """The results of a report without the time of a call."""
    results = report(options(make_bundle(tmp_path_factory.mktemp("call") / "tiny"), seeds=4, rounds=1))
    return with_call(results, time=None)


def with_call(results: forms.Results, **figures: object) -> forms.Results:
    """Return the results with other figures of a whole call with the first body."""
    (first, *others) = results.calls
    return msgspec.structs.replace(results, calls=(msgspec.structs.replace(first, **figures), *others))


def test_the_tiles_are_about_the_whole_call(measured: forms.Results) -> None:
    body = measured.qualities[0].body
    time = CallTime(body, (), measured.plan, 10.0, 4.0, 2.25, 2.75, 0.5, "some CPU", 1)
    whole = with_call(measured, share_of_macs=0.125, share_of_bytes=0.375, time=time, picture_psnr=(40.5, 41.5))
    tiles = headline(whole).markup
    shown = unescape(re.sub(r"<[^>]*>", "", tiles))
    assert {41.0, 2.5, 0.125, 0.375} <= set(Page(tiles).figures)
    for title in ("PSNR of finished pictures", "in a whole call", "Work (MACs) of a whole call in int8"):
        assert title in shown
    assert shown.index("41.0 dB") < shown.index(f"{measured.qualities[0].against_float.mean:.1f} dB")  # of latents
    assert "mean step" not in shown
    assert "in a mean step alone" in unescape(re.sub(r"<[^>]*>", "", headline(measured).markup))  # no call was timed


def test_milliseconds_of_a_busy_machine_are_said_to_be_processor_times(measured: forms.Results) -> None:
    time = CallTime(measured.qualities[0].body, (), measured.plan, 10.0, 4.0, 2.25, 2.75, 0.5, "some CPU", 1, load=1.6)
    shown = unescape(re.sub(r"<[^>]*>", "", headline(with_call(measured, time=time)).markup))
    assert "of processor time, rounds from 2.25×" in shown
    assert "some CPU by processor time, since other programs made work take 1.6 times as long" in shown


def test_graphs_in_float32_are_on_the_page(measured: forms.Results) -> None:
    said = {"in_float32": ("in float32: decoder of latents: why",)}
    page = unescape(build_page(with_call(measured, **said), None).decode())
    assert f"{measured.qualities[0].body}: {said['in_float32'][0]}." in page


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"x_shape": (80, 128)}, "samples are arrays [80, 128], and a picture has 1 or 3 channels, a height and"),
        ({"x_shape": (16, 7), "policy": Policy(1, 0, 8)}, "samples are sequences of actions [16, 7]"),
        ({"x_shape": (1, 8, 8)}, None),
        ({"x_shape": (4, 8, 8)}, "samples are arrays [4, 8, 8]"),
    ],
)
def test_samples_that_are_no_pictures_say_why(tmp_path: Path, fields: dict[str, object], said: str | None) -> None:
    reason = why_not_shown(msgspec.structs.replace(open_bundle(make_bundle(tmp_path / "tiny")).manifest, **fields))
    assert (reason is None) if said is None else reason is not None and reason.startswith(said)


def test_pictures_are_decoded_by_the_decoder_of_each_body(tmp_path: Path) -> None:
    bundle = open_bundle(write_latent_bundle(tmp_path / "bundle"))
    latents = np.random.default_rng(0).standard_normal((6, *bundle.manifest.x_shape)).astype(np.float32)
    near = latents + 0.01
    samples = Samples(latents[:0], latents, {"float32": (near, latents)}, ["seed"] * 6, reason="latents")
    pictures = decode_samples(bundle, samples)
    assert pictures is not None and pictures.reason is None and len(pictures.teacher) == 0
    decoder = load_autoencoder(bundle, encoder=False)
    both = decoder.decode(near[:4]), decoder.decode(latents[:4])
    np.testing.assert_array_equal(pictures.bodies["float32"], both)
    (figures,) = collect_call_figures(bundle, {"float32": load(bundle.path).compile("ddim:2")}, pictures)
    assert figures.picture_psnr == pytest.approx(psnr(*both)) and figures.mean_picture_psnr == pytest.approx(
        psnr(*both).mean()
    )
    page = samples_section(pictures, "ddim:2", None).markup
    assert page.count("<img") >= 4 and "Not shown" not in page
    other = replace(samples, reference=latents[:, :, :4])  # of a size for which the decoder was not made
    assert (
        decode_samples(bundle, other) is None and "Not shown: latents." in samples_section(other, "ddim:2", None).markup
    )


def test_a_measurement_prints_the_time_of_a_whole_call(tmp_path: Path, measured: forms.Results) -> None:
    """In the words of calibration."""
    path = make_bundle(tmp_path / "tiny")
    body = open_bundle(path).body("int8-cpu-x86")
    call = CallTime("int8-cpu-x86", body_files(body), "dpmpp_2m:4", 10.0, 4.0, 2.25, 2.75, 0.5, "some CPU", 1)
    change_bundle(path, calls=(call,))
    assert describe_call(call, body) in [*format_results(measured, path)]
    assert describe_call(call, body) in [*format_results(msgspec.structs.replace(measured, qualities=()), path)]


@pytest.mark.parametrize(("guidance", "is_shown"), [(1.0, True), (3.0, False)])
def test_the_time_of_a_call_is_of_its_guidance(guidance: float, is_shown: bool, tmp_path: Path) -> None:
    """The bundle was timed without, where a step has half as many rows."""
    bundle = open_bundle(write_latent_bundle(tmp_path / "bundle"))
    plan = load(bundle.path).compile("ddim:2", guidance)
    time = CallTime("float32", body_files(bundle.body("float32")), plan.name, 1.0, 1.0, 1.0, 1.0, 0.0, "some CPU", 1)
    timed = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, calls=(time,)))
    (figures,) = collect_call_figures(timed, {"float32": plan}, None)
    assert figures.time == (time if is_shown else None)
