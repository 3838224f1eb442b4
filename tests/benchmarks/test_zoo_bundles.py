"""Bundles of the zoo are stored in folders whose names identify what they follow from."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import zoo_bundles
from fewstep.export.export_options import ExportOptions
from zoo.members import Member


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

    monkeypatch.setattr(zoo_bundles, "export", export)
    member = Trained("tiny", "ddim:2", folder=tmp_path)
    member.weights.write_bytes(b"trained")
    first = zoo_bundles.exported(member, tmp_path, "ddim:2")
    assert zoo_bundles.exported(member, tmp_path, "ddim:2") == first and made == [first]
    assert zoo_bundles.exported(member, tmp_path, "ddim:4") != first
    monkeypatch.setattr(zoo_bundles, "digest_code", lambda packages: b"edited")
    edited = zoo_bundles.exported(member, tmp_path, "ddim:2")
    member.weights.write_bytes(b"trained again")
    again = zoo_bundles.exported(member, tmp_path, "ddim:2")
    assert len({first, edited, again, *made}) == len(made) == 4
