"""An int8 body without an operation in int8: the reason, and the fix."""

from pathlib import Path

import msgspec
import pytest

from fewstep.report.float_body import describe_shared_graphs, float_reason
from fewstep.runtime.bundle.manifest import Body, Condition, Coverage, Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, manifest_of, with_body

NAME = "int8-cpu-x86"


def in_float(bundle: Path, macs: int, *options: str) -> tuple[Manifest, Body]:
    """A bundle with a body that has these MACs in int8 of 100, made by a command with these options."""
    body = open_bundle(bundle).manifest.bodies[NAME]
    coverage = Coverage(macs, 100, (), ("first",))
    with_body(bundle, NAME, graphs=tuple(msgspec.structs.replace(graph, coverage=coverage) for graph in body.graphs))
    provenance = open_bundle(bundle).manifest.provenance
    command = " ".join(["fewstep calibrate BUNDLE --plan ddim:3 --target cpu-x86,tensorrt", *options])
    change_bundle(bundle, provenance=msgspec.structs.replace(provenance, commands=(*provenance.commands, command)))
    manifest = open_bundle(bundle).manifest
    return manifest, manifest.bodies[NAME]


@pytest.mark.parametrize("limit", ["--quality 60dB", "--speed 0.9x"])
def test_the_limit_that_kept_every_operation_in_float_is_named(tiny_bundle: Path, limit: str) -> None:
    said = float_reason(*in_float(tiny_bundle, 0, limit))
    assert said is not None and said.endswith(
        f"{limit} kept every operation in float; calibrate with another limit, or without one"
    )


def test_without_a_limit_float32_itself_is_advised(tiny_bundle: Path) -> None:
    said = float_reason(*in_float(tiny_bundle, 0))
    assert said is not None and said.endswith("costs more than it gains there; deploy float32 itself")


def test_a_body_with_int8_has_no_such_reason(tiny_bundle: Path) -> None:
    manifest, body = in_float(tiny_bundle, 1, "--quality 60dB")
    assert float_reason(manifest, body) is None
    assert float_reason(manifest, body, share=0.0) is not None  # along a plan of which int8 runs no step
    assert float_reason(manifest, manifest.bodies["float32"], share=0.0) is None


def test_graphs_that_stay_float32_have_a_line_for_each_reason() -> None:
    reasons = {"text encoder": "no prompts", "decoder of latents": "no int8 form", "encoder of images": "no int8 form"}
    body = Body((), "int8", "cpu-x86", reasons=reasons)
    assert [*describe_shared_graphs(manifest_of({}, x_shape=(3, 8, 8)), body)] == [
        "in float32: text encoder: no prompts",
        "in float32: decoder of latents, encoder of images: no int8 form",
    ]


def test_a_conditioner_that_stays_float32_is_named_by_its_cameras() -> None:
    state, camera = Condition("state", "state", (3,), "float32"), Condition("cam", "cam", (1, 3, 4, 4), "uint8")
    body = Body((), "int8", "cpu-x86", reasons={"conditioner": "it loses 9 dB"})
    (line,) = describe_shared_graphs(manifest_of({}, x_shape=(3, 8, 8), conditions=(state, camera)), body)
    assert line == "in float32: conditioner (encodes cam): it loses 9 dB"
