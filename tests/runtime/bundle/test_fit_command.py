"""The command that fits a plan to a body, and the guidance weight of a plan whose file is lost."""

from pathlib import Path

import msgspec
import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.fit_command import fit_command, weight_of_fit
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.runtime.test_fitted_plans import give


def recorded(bundle: Path, *commands: str) -> Manifest:
    manifest = open_bundle(bundle).manifest
    provenance = msgspec.structs.replace(manifest.provenance, commands=commands)
    return msgspec.structs.replace(manifest, provenance=provenance)


@pytest.mark.parametrize(
    ("target", "weight", "words"),
    [
        ("portable", 2.0, "fewstep fit tex --steps 5 --guidance 2"),
        ("portable", None, "fewstep fit tex --steps 5"),
        ("cpu-x86", 2.5, "fewstep fit tex --steps 5 --precision int8 --guidance 2.5"),
        ("openvino", None, "fewstep fit tex --steps 5 --precision int8 --backend openvino"),
    ],
)
def test_it_names_precision_and_backend_of_the_body(
    tiny_bundle: Path, target: str, weight: float | None, words: str
) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    body = manifest.bodies["float32" if target == "portable" else "int8-cpu-x86"]
    known = msgspec.structs.replace(manifest, bodies={"it": msgspec.structs.replace(body, target=target)})
    assert fit_command(Path("tex"), known, 5, "it", weight) == words


def test_the_weight_of_a_lost_plan_is_the_one_of_the_recorded_command_that_no_other_plan_stems_from(
    tiny_bundle: Path,
) -> None:
    give(tiny_bundle, guidance=2.0)
    give(tiny_bundle, guidance=4.0)
    give(tiny_bundle, body="int8-cpu-x86", guidance=4.0)
    manifest = recorded(
        tiny_bundle,
        "fewstep export tiny -o BUNDLE",
        "fewstep fit BUNDLE --steps 3 --guidance 2.0",
        "fewstep fit BUNDLE --steps 3 --guidance 4.0 --seeds 16",
        "fewstep fit BUNDLE --guidance 6.0",  # of 6 evaluations
        "fewstep fit BUNDLE --steps 3 --precision int8 --guidance 8.0",
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
    manifest = recorded(tiny_bundle)
    (tiny_bundle / manifest.fitted[1].file).write_text("{")
    assert weight_of_fit(tiny_bundle, manifest, manifest.fitted[1]) == 2.0
    with pytest.raises(UserError, match=r"again: fewstep fit .*tiny --steps 3 --precision int8 --guidance 2$"):
        open_bundle(tiny_bundle).file(manifest.fitted[1].file)
