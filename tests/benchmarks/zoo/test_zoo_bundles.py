"""benchmarks/zoo/bundles.py: a bundle is kept as long as nothing that it follows from has changed."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.zoo import bundles
from benchmarks.zoo.members import Member
from fewstep.export.export import ExportOptions


@dataclass(frozen=True)
class Trained(Member):
    folder: Path = Path()

    @property
    def weights(self) -> Path:
        return self.folder / "weights"


def test_a_bundle_is_kept_until_what_it_follows_from_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def export(options: ExportOptions) -> None:
        made.append(options.output)
        options.output.mkdir()
        (options.output / "manifest.json").touch()

    monkeypatch.setattr(bundles, "export", export)
    member = Trained("tiny", "ddim:2", folder=tmp_path)
    member.weights.write_bytes(b"trained")
    first = bundles.exported(member, tmp_path, "ddim:2")
    assert bundles.exported(member, tmp_path, "ddim:2") == first and made == [first]
    assert bundles.exported(member, tmp_path, "ddim:4") != first
    monkeypatch.setattr(bundles, "code_of", lambda packages: b"edited")
    edited = bundles.exported(member, tmp_path, "ddim:2")
    member.weights.write_bytes(b"trained again")
    again = bundles.exported(member, tmp_path, "ddim:2")
    assert len({first, edited, again, *made}) == len(made) == 4
