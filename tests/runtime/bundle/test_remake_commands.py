"""The commands that export a bundle and fit a plan again, and the guidance weight of a plan whose file is lost."""

from pathlib import Path

import msgspec
import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.bundle.remake_commands import export_command, refit_command, weight_of_fit
from tests.bundles import with_body
from tests.runtime.sampling.test_fitted_plans import give


def with_commands(bundle: Path, *commands: str) -> Manifest:
    manifest = open_bundle(bundle).manifest
    provenance = msgspec.structs.replace(manifest.provenance, commands=commands)
    return msgspec.structs.replace(manifest, provenance=provenance)


@pytest.mark.parametrize(
    ("weight", "words"),
    [(2.5, "fit: fewstep fit tex --steps 5 --guidance 2.5"), (None, "fit: fewstep fit tex --steps 5")],
)
def test_it_names_evaluations_and_guidance(tiny_bundle: Path, weight: float | None, words: str) -> None:
    assert refit_command(Path("tex"), open_bundle(tiny_bundle).manifest, 5, weight, "fit: ") == words


def test_no_guidance_is_named_where_the_default_is_that_of_the_calibration(tiny_bundle: Path) -> None:
    with_body(tiny_bundle, "int8-cpu-x86", plan="ddim:4")
    manifest = open_bundle(tiny_bundle).manifest
    assert refit_command(Path("tex"), manifest, 3, None) == "fewstep fit tex --steps 3 --guidance 1"
    bare = msgspec.structs.replace(manifest.conditions[0], null=None)  # has no guidance to take a default from
    unguided = msgspec.structs.replace(manifest, conditions=(bare,))
    assert refit_command(Path("tex"), unguided, 3, None) == "fewstep fit tex --steps 3"


def test_the_weight_of_a_lost_plan_is_the_one_of_the_recorded_command_that_no_other_plan_stems_from(
    tiny_bundle: Path,
) -> None:
    give(tiny_bundle, guidance=2.0)
    give(tiny_bundle, guidance=4.0)
    give(tiny_bundle, body="int8-cpu-x86", guidance=8.0)
    manifest = with_commands(
        tiny_bundle,
        "fewstep export tiny -o BUNDLE",
        "fewstep fit BUNDLE --steps 3 --guidance 2.0",
        "fewstep fit BUNDLE --steps 3 --guidance 4.0 --seeds 16",
        "fewstep fit BUNDLE --guidance 6.0",  # of 6 evaluations
        "fewstep fit BUNDLE --steps 3 --precision int8 --guidance 8.0",  # of before
    )
    for place, weight in ((0, 2.0), (1, 4.0), (2, 8.0)):
        file = tiny_bundle / manifest.fitted[place].file
        content = file.read_bytes()
        file.unlink()
        assert weight_of_fit(tiny_bundle, manifest, manifest.fitted[place]) == weight
        file.write_bytes(content)


def test_without_a_recorded_command_it_is_the_weight_of_all_other_plans(tiny_bundle: Path) -> None:
    give(tiny_bundle, guidance=2.0)
    give(tiny_bundle, body="int8-cpu-x86", guidance=2.0)
    manifest = with_commands(tiny_bundle)
    (tiny_bundle / manifest.fitted[1].file).write_text("{")
    assert weight_of_fit(tiny_bundle, manifest, manifest.fitted[1]) == 2.0
    with pytest.raises(UserError, match=r"again: fewstep fit .*tiny --steps 3 --guidance 2$"):
        open_bundle(tiny_bundle).file(manifest.fitted[1].file)


@pytest.mark.parametrize(
    "recorded, made",
    [
        ("fewstep export sd15 -o BUNDLE --call height=512", "fewstep export sd15 -o tiny --call height=512"),
        ("fewstep export sd15 -o BUNDLE; rm x", "fewstep export sd15 -o 'BUNDLE;' rm x"),
        ("fewstep export 'sd15 -o BUNDLE", "fewstep export SOURCE -o tiny"),
    ],
)
def test_the_recorded_export_is_run_again_without_other_commands(recorded: str, made: str, tiny_bundle: Path) -> None:
    assert export_command(with_commands(tiny_bundle, recorded), Path("tiny")) == made


def test_the_fix_of_a_bundle_names_its_recorded_export(tiny_bundle: Path) -> None:
    manifest = with_commands(tiny_bundle, "fewstep export sd15 -o BUNDLE")
    assert Bundle(Path("tiny"), manifest).export_again.endswith("make it again: fewstep export sd15 -o tiny")
