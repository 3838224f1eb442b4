"""The same for the other parts of a bundle: text encoder, tokenizers, autoencoder, null values."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from tests.fuzz.guard import guard
from tests.fuzz.mutations import changes, cuts, damage_bytes, damage_json
from tests.fuzz.test_fuzz import fuzzed, record

pytest.importorskip("tokenizers")
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime import load
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.text import load_text_encoder
from tests.runtime.text_bundle import LENGTH, X_SHAPE, with_companions

NULL = "graphs/null.npy"
few = settings(fuzzed, max_examples=25, derandomize=True)


def use(bundle: Path) -> None:
    text = load_text_encoder(bundle, threads=1)
    images = load_autoencoder(bundle, threads=1)
    with load(bundle) as sampler:
        x = sampler.sample("ddim:1", [0], text.encode(["a red cat"]), 2.0)
    images.encode(images.decode(x))


@pytest.fixture
def bundle(tiny_bundle: Path) -> Path:
    """With everything, the text's null value in a file."""
    with_companions(tiny_bundle)
    stream = io.BytesIO()
    np.save(stream, np.zeros((LENGTH, 2), np.float32))
    manifest = open_bundle(tiny_bundle).manifest
    label, text = manifest.conditions
    changed = msgspec.structs.replace(manifest, conditions=(label, msgspec.structs.replace(text, null_file=NULL)))
    record(tiny_bundle, msgspec.json.encode(changed).decode(), NULL, stream.getvalue())
    use(tiny_bundle)  # whatever Python imports and opens once
    verify(VerifyOptions(tiny_bundle))
    assert manifest.x_shape == X_SHAPE
    return tiny_bundle


@few
@given(changes)
def test_the_structure_of_manifests(bundle: Path, drawn: list[Any]) -> None:
    """Only changes in the text encoder, the autoencoder or the conditions; other tests change the rest."""
    document = json.loads((bundle / "manifest.json").read_text())
    former = json.dumps(document)
    part = ("text", "autoencoder", "conditions")[drawn[0][1] % 3]
    damaged = damage_json(json.dumps(document[part]), drawn)
    (bundle / "manifest.json").write_bytes(json.dumps({**document, part: "HERE"}).encode().replace(b'"HERE"', damaged))
    with guard(bundle, ""):
        use(bundle)
    with guard(bundle, str(bundle)):
        verify(VerifyOptions(bundle, graphs=False))
    (bundle / "manifest.json").write_text(former)


@few
@given(changes)
def test_tokenizers(bundle: Path, drawn: list[Any]) -> None:
    manifest, file = (bundle / "manifest.json").read_text(), bundle / "graphs" / "tokenizer.json"
    former = file.read_bytes()
    record(bundle, manifest, "graphs/tokenizer.json", damage_json(former.decode(), drawn))
    with guard(bundle, ""):
        load_text_encoder(bundle, threads=1).encode(["a red cat", "fish " * 20])
    record(bundle, manifest, "graphs/tokenizer.json", former)


@few
@given(cuts)
def test_null_values(bundle: Path, drawn: list[Any]) -> None:
    manifest, former = (bundle / "manifest.json").read_text(), (bundle / NULL).read_bytes()
    record(bundle, manifest, NULL, damage_bytes(former, drawn))
    with guard(bundle, NULL):
        load(bundle)
    verify(VerifyOptions(bundle, graphs=False))
    record(bundle, manifest, NULL, former)
