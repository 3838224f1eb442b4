"""Runs that cannot be baked."""

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("tokenizers")
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.runtime.bundle.manifest import Size
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.companions import TextLength
from tests.bundles import change_bundle
from tests.refusals import refuses
from tests.runtime.text_bundle import LENGTH, with_companions, with_seeing_encoder


def test_a_text_encoder_of_texts_of_any_length_is_not_baked(tiny_bundle: Path, tmp_path: Path) -> None:
    """Its graph returns the longest text, of which the runtime takes a part."""
    bundle = with_companions(tiny_bundle)
    manifest = open_bundle(bundle).manifest
    label, text = manifest.conditions
    assert manifest.text is not None
    change_bundle(
        bundle,
        conditions=(label, msgspec.structs.replace(text, follows={0: "tokens"})),
        sizes=(Size("tokens", None, 1, LENGTH),),
        text=msgspec.structs.replace(manifest.text, lengths=(TextLength("tokens", "ids", 0),)),
    )
    with refuses("takes texts without padding, which a baked file cannot cut off", "bake with --latents"):
        bake(BakeOptions(bundle, "ddim:2", tmp_path / "s.onnx", guidance=1.0))


def test_a_text_encoder_that_sees_a_picture_is_not_baked(tiny_bundle: Path, tmp_path: Path) -> None:
    options = BakeOptions(with_seeing_encoder(tiny_bundle), "ddim:2", tmp_path / "s.onnx", guidance=1.0)
    with refuses(f"the text encoder of {tiny_bundle} gets features of a picture", "bake with --latents"):
        bake(options)
