"""The text encoder and the autoencoder on OpenVINO, on graphs that can be computed by hand."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("openvino", reason="openvino is not installed")
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.plans.errors import UserError
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.backends import openvino_agreement
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.registry import companion_engine
from fewstep.runtime.bundle.manifest import ReplacedGraph
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.kinds.companions import DECODER
from fewstep.runtime.text import load_text_encoder
from tests.bundles import with_body
from tests.runtime.text_bundle import IMAGE, SCALE, X_SHAPE, with_companions

BODY = "int8-cpu-x86"


def latents(count: int) -> Any:
    return np.random.default_rng(count).uniform(-0.5, 0.5, (count, *X_SHAPE)).astype(np.float32)


def test_prompts_of_any_number_are_encoded_as_on_onnxruntime(tiny_bundle: Path) -> None:
    bundle = with_companions(tiny_bundle)
    text = load_text_encoder(bundle, engine=OpenVino())
    for prompts in (["a cat"], ["a red dog", "a cat", ""]):
        np.testing.assert_array_equal(
            text.encode(prompts)["text"], load_text_encoder(bundle).encode(prompts)["text"], strict=True
        )


def test_samples_of_any_number_are_decoded_and_encoded(tiny_bundle: Path) -> None:
    autoencoder = load_autoencoder(with_companions(tiny_bundle), engine=OpenVino())
    for count in (1, 3):
        images = autoencoder.decode(x := latents(count))
        assert images.shape == (count, *IMAGE) and images.dtype == np.float32
        np.testing.assert_allclose(images[:, 1, ::2, 1::2], x[:, 0] / SCALE, rtol=1e-6)
        np.testing.assert_allclose(autoencoder.encode(images), x, rtol=1e-6)


def own_decoder(tiny_bundle: Path) -> Bundle:
    """A bundle as an int8 body with a decoder of its own sees it."""
    autoencoder = open_bundle(with_companions(tiny_bundle)).manifest.autoencoder
    assert autoencoder is not None
    own = ReplacedGraph(**msgspec.structs.asdict(autoencoder.decoder))
    with_body(tiny_bundle, BODY, replaces={DECODER: own})
    return open_bundle(tiny_bundle).with_graphs_of(BODY)


def test_a_decoder_in_int8_stays_on_onnxruntime(tiny_bundle: Path) -> None:
    assert isinstance(OpenVino().load_companion(own_decoder(tiny_bundle), DECODER), Session)


def test_a_decoder_that_is_computed_wrongly_is_refused(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(feeds: Any) -> Any:
        return {"image": np.ones((len(feeds["latent"]), *IMAGE), np.float32)}

    monkeypatch.setattr(OpenVino, "_open_companion", lambda *_: wrong)
    with pytest.raises(UserError, match=r"computes graphs/decoder.onnx incorrectly: it differs from onnxruntime by"):
        load_autoencoder(with_companions(tiny_bundle), encoder=False, engine=OpenVino(cached=False))


def test_a_decoder_of_a_body_is_not_compared_with_the_float_denoiser(tiny_bundle: Path) -> None:
    bundle, opened = own_decoder(tiny_bundle), list[str]()

    def open_none(name: str) -> Any:
        opened.append(name)

    openvino_agreement.check(OpenVino(cached=False), bundle, DECODER, open_none)
    assert opened == []


@pytest.mark.parametrize(
    ("name", "engine"),
    [("openvino-bf16", OpenVino(threads=1, float_type="bf16")), ("onnxruntime", None), ("tensorrt", None)],
)
def test_the_engine_of_a_backend(name: str, engine: OpenVino | None) -> None:
    assert companion_engine(name, threads=1) == engine


def test_a_run_on_openvino_needs_no_onnxruntime(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"bundle": with_companions(tiny_bundle), "prompt": ("a cat",), "guidance": 1.0}
    expected = run(RunOptions(**options, output=tmp_path / "a.png")).x
    run(RunOptions(**options, output=tmp_path / "b.png", backend="openvino"))  # compares OpenVINO with onnxruntime
    monkeypatch.delattr(OnnxRuntime, "open")
    drawn = run(RunOptions(**options, output=tmp_path / "c.png", backend="openvino")).x
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
