"""An intact bundle is reported as intact, and each kind of damage is named with its fix."""

from pathlib import Path

import msgspec
import pytest

from fewstep.cli.main import main
from fewstep.plans.errors import UserError
from fewstep.report.integrity import Integrity, VerifyOptions, verify
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.measure.test_simulation import with_bfloat16


def verify_bundle(bundle: Path, graphs: bool = True) -> Integrity:
    return verify(VerifyOptions(bundle, graphs))


def said(bundle: Path) -> str:
    """Return all damages, one per line."""
    return "\n".join(map(str, verify_bundle(bundle).damages))


def edit(bundle: Path, file: str, content: bytes) -> None:
    """Replace the content of a file and its hash in the manifest, which no hash can show."""
    change_bundle(bundle, {file: content})


def test_a_whole_bundle_is_whole(tiny_bundle: Path) -> None:
    found = verify_bundle(tiny_bundle)
    assert found.is_whole and (found.files, found.graphs, found.unnamed, found.notes) == (3, 3, (), ())
    assert found.bytes == sum(path.stat().st_size for path in (tiny_bundle / "graphs").iterdir())


def test_every_damage_is_named_not_only_the_first(tiny_bundle: Path) -> None:
    (tiny_bundle / "graphs/body.onnx").unlink()
    (tiny_bundle / "graphs/int8.onnx").write_bytes(b"cut")
    lines = said(tiny_bundle).splitlines()
    assert len(lines) == 2 and "graphs/body.onnx is missing" in lines[0] and "graphs/int8.onnx is damaged" in lines[1]
    assert "fewstep calibrate" in lines[1]


def test_a_graph_that_does_not_load_is_named(tiny_bundle: Path) -> None:
    edit(tiny_bundle, "graphs/body.onnx", b"no graph")
    assert "float32: onnxruntime" in said(tiny_bundle) and "cannot load graphs/body.onnx" in said(tiny_bundle)
    assert verify_bundle(tiny_bundle, graphs=False).is_whole


def test_a_graph_with_other_inputs_is_named(tiny_bundle: Path) -> None:
    edit(tiny_bundle, "graphs/body.onnx", (tiny_bundle / "graphs/int8.onnx").read_bytes())
    assert "graphs/body.onnx has the inputs group int64[1], row float32['batch', 1]" in said(tiny_bundle)


def test_plans_and_ranges_are_read(tiny_bundle: Path) -> None:
    damaged = {"plans/p.json": b"{}", "ranges/r.safetensors": b"nothing"}
    provenance = open_bundle(tiny_bundle).manifest.provenance
    commands = (*provenance.commands, "fewstep calibrate BUNDLE --plan ddim:4 --guidance 2")
    provenance = msgspec.structs.replace(provenance, commands=commands)
    plans = {"ddim:4": "plans/p.json"}
    change_bundle(tiny_bundle, damaged, plans=plans, ranges="ranges/r.safetensors", provenance=provenance)
    assert "plans/p.json is not a plan" in said(tiny_bundle) and "--plan ddim:4 --guidance 2" in said(tiny_bundle)
    assert "ranges/r.safetensors is not a table of tensors" in said(tiny_bundle)


def test_files_that_belong_to_nobody_are_noted(tiny_bundle: Path) -> None:
    (tiny_bundle / "graphs/old.onnx").write_bytes(b"")
    found = verify_bundle(tiny_bundle)
    assert found.is_whole and found.unnamed == ("graphs/old.onnx",)


def test_without_an_engine_the_rest_is_checked(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.report.integrity.find_spec", lambda name: None)
    found = verify_bundle(tiny_bundle)
    assert found.is_whole and found.graphs == 0 and "pip install 'fewstep[cpu]'" in found.notes[0]


def test_a_body_in_bfloat16_is_opened_rounded(tmp_path: Path) -> None:
    """onnxruntime has no bfloat16 kernels, which is not damage. A graph that does not run rounded is."""
    bundle = with_bfloat16(tmp_path / "half")
    assert verify_bundle(bundle.path).is_whole
    entry = bundle.body("bfloat16").graph
    content = (bundle.path / entry.file).read_bytes().replace(b"Relu", b"Rely")
    (damage,) = verify_bundle(change_bundle(bundle.path, {entry.file: content})).damages
    assert damage.what.startswith("bfloat16: onnxruntime ")


def test_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a bundle"):
        verify_bundle(tmp_path)


def test_the_exit_code_tells(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_bundle)]) == 0
    assert capsys.readouterr().out.startswith(f"{tiny_bundle}: intact; 3 files")
    (tiny_bundle / "graphs/body.onnx").unlink()
    assert main(["verify", str(tiny_bundle)]) == 1
    assert "damaged (1 fault);" in capsys.readouterr().out
