"""The model card of a bundle: its figures, licence and commands."""

from pathlib import Path

import msgspec
import pytest

from fewstep.cli.push.card import build_card
from fewstep.cli.push.licence import licence_fields
from fewstep.cli.push.push import PushOptions, prepare
from fewstep.export.licence import read_licence
from fewstep.export.sources.card import CARD, read_tags
from fewstep.measure.results import SCHEMA, CallFigures, Quality, Results, encode
from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.speed.machine import Machine
from fewstep.models.ready import fashion_mnist
from fewstep.runtime.bundle.figures import Together
from fewstep.runtime.bundle.manifest import Manifest, Provenance, Trial
from fewstep.runtime.bundle.reading import Bundle, file_sha256, open_bundle
from tests.bundles import with_body
from tests.refusals import refuses
from tests.runtime.test_networks import with_expert

BODY = "int8-cpu-x86"
NAME = "org/tiny"


def _card(bundle: Path, licence: str | None = None, **fields: object) -> str:
    """Return the card of a bundle with other fields of its manifest."""
    manifest = open_bundle(bundle).manifest
    return build_card(Bundle(bundle, msgspec.structs.replace(manifest, **fields)), NAME, licence)


def _with_trial(bundle: Path) -> Manifest:
    """Return the manifest with one trial of the calibration: 30 dB."""
    manifest = open_bundle(bundle).manifest
    body = manifest.bodies[BODY]
    trial = Trial("minmax", 30.0, 25.0, 16, is_chosen=True)
    body = msgspec.structs.replace(body, trials=(trial,), plan="ddim:4")
    return msgspec.structs.replace(manifest, bodies={**manifest.bodies, BODY: body})


def _results(graphs: tuple[str, ...]) -> Results:
    """Return the figures of a report: 40 dB against float32, and 20 dB of float32 against the teacher."""

    def end(mean: float) -> EndQuality:
        return EndQuality("", mean, mean - 4, mean - 5, 0.1, (mean,) * 32, None)

    quality = Quality(BODY, "cpu-x86", "onnxruntime", end(40.0), end(19.5), (), 0, graphs=graphs)
    return Results(
        SCHEMA,
        "tiny",
        "ddim:4",
        None,
        "ddim:40",
        8,
        end(20.0),
        (quality,),
        (),
        (),
        {},
        Machine("", 1, (), "", {}),
        "",
        1,
        calls=(CallFigures(BODY, None, None, picture_psnr=(33.0, 34.5)),),
    )


def _card_with_results(bundle: Path, graphs: tuple[str, ...]) -> str:
    manifest = _with_trial(bundle)
    (bundle / "results.json").write_bytes(encode(_results(graphs)))
    files = {**manifest.files, "results.json": file_sha256(bundle / "results.json")}
    manifest = msgspec.structs.replace(manifest, results="results.json", files=files)
    return build_card(Bundle(bundle, manifest), NAME, None)


def test_the_figures_are_those_of_the_report(tiny_bundle: Path) -> None:
    graphs = tuple(graph.file for graph in open_bundle(tiny_bundle).manifest.bodies[BODY].graphs)
    card = _card_with_results(tiny_bundle, graphs)
    assert "| float32 | ddim:4 | float32, ddim:40 | 20.0 | 16.0 | 32 |" in card
    assert f"| {BODY} | ddim:4 | float32, same plan | 40.0 | 36.0 | 32 |" in card
    assert f"| {BODY} | ddim:4 | float32, ddim:40 | 19.5 | 15.5 | 32 |" in card
    assert f"| {BODY} | ddim:4 | pictures of float32, same plan | 33.8 |" in card


def test_figures_of_another_body_of_that_name_are_left_out(tiny_bundle: Path) -> None:
    card = _card_with_results(tiny_bundle, ("graphs/former.onnx",))
    assert f"| {BODY} | ddim:4 | float32, same plan | 30.0 | 25.0 | 16 |" in card and "40.0" not in card


def test_the_figures_of_several_networks_and_of_pictures_are_those_of_a_whole_call(tiny_bundle: Path) -> None:
    trial = Trial("channels", 50.0, 45.0, 16, is_chosen=True, picture_psnr=33.25, together=Together(30.5, 25.5, 8))
    with_body(tiny_bundle, BODY, trials=(trial,), plan="ddim:4")
    card = _card(tiny_bundle)
    assert f"| {BODY} | ddim:4 | float32, same plan | 30.5 | 25.5 | 8 |" in card and "50.0" not in card
    assert f"| {BODY} | ddim:4 | pictures of float32, same plan | 33.2 |" in card


def test_a_bundle_without_figures_says_so(tiny_bundle: Path) -> None:
    assert "The bundle stores no figures of its quality." in _card(tiny_bundle)


def test_the_ready_bundle_has_its_licence_tags_and_sizes(tmp_path: Path) -> None:
    card = prepare(PushOptions(fashion_mnist(), NAME)).contents[CARD].decode()
    (tmp_path / CARD).write_text(card)
    assert read_licence(str(tmp_path)) == "apache-2.0"
    assert read_tags(tmp_path) == ["fewstep", "onnx", "diffusion", "int8"]
    assert f"    fewstep run {NAME} --precision int8 -c class=T-shirt -o samples.png\n" in card
    assert f"| {BODY} | int8 | cpu-x86 | 6.0 MB |" in card and "\nbase_model" not in card


def test_a_body_that_one_of_two_networks_lacks_is_left_out(tiny_bundle: Path) -> None:
    floats = {"float32": open_bundle(tiny_bundle).manifest.bodies["float32"]}
    card = build_card(open_bundle(with_expert(tiny_bundle, bodies=floats)), NAME, None)
    assert "| float32 | float32 |" in card and f"| {BODY} |" not in card


def test_a_source_of_a_hub_is_the_base_model(tiny_bundle: Path) -> None:
    origin = Provenance(f"org/base@{'0' * 40}", "0" * 64, {}, ())
    card = _card(tiny_bundle, provenance=origin)
    assert '\nbase_model: "org/base"\nbase_model_relation: "quantized"\n' in card


def test_texts_of_a_bundle_are_shown_as_they_are(tiny_bundle: Path) -> None:
    card = _card(tiny_bundle, name="a|b\n---\n# <b>c")
    assert "\n# a\\|b\\\\n---\\\\n\\# \\<b\\>c\n" in card


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("Apache-2.0", [("license", "apache-2.0")]),
        ("openrail++", [("license", "openrail++")]),
        ("my-licence", [("license", "other"), ("license_name", "my-licence")]),
        (None, []),
    ],
)
def test_a_licence_that_hubs_do_not_know_has_a_name(licence: str | None, fields: list[tuple[str, str]]) -> None:
    assert list(licence_fields(licence)) == fields


def test_the_licence_of_the_source_cannot_be_replaced(tiny_bundle: Path) -> None:
    with refuses(("Apache-2.0", "mit"), "leave out --licence"):
        prepare(PushOptions(fashion_mnist(), NAME, licence="mit"))
    card = prepare(PushOptions(tiny_bundle, NAME, licence="mit")).contents[CARD].decode()
    assert '---\nlicense: "mit"\n' in card and "- licence: mit\n" in card
    assert "licence: not stated by the source" in prepare(PushOptions(tiny_bundle, NAME)).contents[CARD].decode()
    with refuses("'a b'", "one word"):
        prepare(PushOptions(tiny_bundle, NAME, licence="a b"))
