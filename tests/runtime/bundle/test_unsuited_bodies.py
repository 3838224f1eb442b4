"""What a body loses on a CPU without VNNI, and the command that makes one which suits it."""

import logging
from pathlib import Path

import msgspec
import pytest

from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.platforms import needs_wide_sums
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.bundle.unsuited_bodies import describe_saturation, describe_unsuited
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.described_cpu import describe_cpu
from tests.runtime.bundle.test_remake_commands import with_commands

AVX2, VNNI = ("avx2",), ("avx2", "avx512_vnni")
COMMAND = "fewstep calibrate BUNDLE --plan ddim:4 --target cpu-x86,openvino --guidance 2"


def with_target(bundle: Path, target: str) -> Bundle:
    """The bundle with the body of a target made by COMMAND."""
    manifest = with_commands(bundle, COMMAND)
    body = msgspec.structs.replace(manifest.bodies["int8-cpu-x86"], target=target, plan="ddim:4")
    changed = {"float32": manifest.bodies["float32"], f"int8-{target}": body}
    return open_bundle(change_bundle(bundle, bodies=changed, provenance=manifest.provenance))


@pytest.mark.parametrize(
    ("target", "loss", "suited"),
    [
        ("cpu-x86", "added in 32 bits, which is slower", "cpu-x86-no-vnni"),
        ("openvino", "added in 16 bits, which saturates", "openvino-no-vnni"),
        ("openvino-bf16", "added in 16 bits, which saturates", "cpu-x86-no-vnni"),
    ],
)
def test_the_loss_is_named_with_the_calibration_that_avoids_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path, target: str, loss: str, suited: str
) -> None:
    bundle = with_target(tiny_bundle, target)
    describe_cpu(monkeypatch, tmp_path, AVX2)
    again = COMMAND.replace("BUNDLE", str(bundle.path)).replace("cpu-x86,openvino", suited)
    assert (
        describe_unsuited(bundle, f"int8-{target}")
        == f"int8-{target}: without VNNI its 8-bit products are {loss}; {again}"
    )
    describe_cpu(monkeypatch, tmp_path, VNNI)
    assert describe_unsuited(bundle, f"int8-{target}") is None


def test_a_packed_bundle_is_calibrated_where_it_was_packed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    bundle = open_bundle(change_bundle(tiny_bundle, bodies={"int8-cpu-x86": manifest.bodies["int8-cpu-x86"]}))
    describe_cpu(monkeypatch, tmp_path, AVX2)
    said = describe_unsuited(bundle, "int8-cpu-x86")
    assert said is not None and said.endswith(
        "calibrate the bundle that this was packed from with --target cpu-x86-no-vnni"
    )


@pytest.mark.parametrize("target", ["cpu-x86-no-vnni", "cpu-arm", "openvino-no-vnni", "tensorrt", "qnn"])
def test_other_bodies_lose_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path, target: str
) -> None:
    bundle = with_target(tiny_bundle, target)
    describe_cpu(monkeypatch, tmp_path, AVX2)
    assert describe_unsuited(bundle, f"int8-{target}") is None and describe_unsuited(bundle, "float32") is None
    assert describe_saturation(bundle.body(f"int8-{target}")) is None


def test_figures_include_saturation_on_openvino_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> None:
    body = open_bundle(tiny_bundle).body("int8-cpu-x86")
    bodies = [msgspec.structs.replace(body, target=target) for target in ("openvino", "cpu-x86")]
    describe_cpu(monkeypatch, tmp_path, AVX2)
    said, none = map(describe_saturation, bodies)
    assert said is not None and said.endswith("openvino-no-vnni is exact here") and none is None
    describe_cpu(monkeypatch, tmp_path, VNNI)
    assert describe_saturation(bodies[0]) is None


def test_a_load_says_what_its_body_loses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    describe_cpu(monkeypatch, tmp_path, AVX2)
    with caplog.at_level(logging.WARNING, "fewstep"):
        load(tiny_bundle)
        assert "VNNI" not in caplog.text
        load(tiny_bundle, "int8")
    assert caplog.text.count("int8-cpu-x86: without VNNI") == 1


@pytest.mark.parametrize(("instructions", "wide"), [(AVX2, "1"), (VNNI, "0")])
def test_without_vnni_8_bit_products_are_added_in_32_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path, instructions: tuple[str, ...], wide: str
) -> None:
    """With VNNI the option makes a call up to twice as long."""
    describe_cpu(monkeypatch, tmp_path, instructions)
    assert needs_wide_sums("cpu-x86") is (wide == "1") and not needs_wide_sums("cpu-x86-no-vnni")
    for body, entry in (("int8-cpu-x86", wide), ("float32", "0")):
        session = OnnxRuntime().load(open_bundle(tiny_bundle), body).session  # type: ignore[attr-defined]
        assert session.get_session_options().get_session_config_entry("session.x64quantprecision") == entry
