"""A choice names the bodies whose decoders it did not compare."""

from pathlib import Path

import msgspec
import pytest

from fewstep.report.choosing import companion_times
from fewstep.report.choosing.choose import choose
from fewstep.runtime.bundle.manifest import ReplacedGraph, Trial
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.companions import DECODER
from tests.bundles import with_body
from tests.report.choosing.test_choose import options
from tests.runtime.text_bundle import LENGTH, with_companions


def test_a_body_with_its_own_decoder_is_named(
    tiny_bundle: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(companion_times, "time_companions", lambda *_: None)
    autoencoder = open_bundle(with_companions(tiny_bundle)).manifest.autoencoder
    assert autoencoder is not None
    own = ReplacedGraph(**msgspec.structs.asdict(autoencoder.decoder))
    trial = Trial("channels", 40.0, 38.0, 8, is_chosen=True, picture_psnr=31.26)
    with_body(tiny_bundle, "int8-cpu-x86", replaces={DECODER: own}, trials=(trial,))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n" * LENGTH)
    notes = [note for note in choose(options(tiny_bundle, prompts=prompts, guidance=1.0)).notes if "decoder" in note]
    said = "its latents are compared, without the error of its own decoder"
    assert notes == [f"int8-cpu-x86: {said}; by its calibration its pictures have 31.3 dB"]
