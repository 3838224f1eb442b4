"""Folders that plugins read."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fewstep.export.export import load_source
from fewstep.export.sources import folders
from fewstep.export.sources.folders import FolderKind, kind_of
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError


def _load(folder: Path) -> Source:
    raise UserError(f"{folder.name} was read by the plugin", "nothing to do")


MARKED = FolderKind(holds=lambda folder: (folder / "mark").is_file(), load=_load, weights=lambda folder: ["weights"])


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the kind MARKED, and its plugin."""
    entry = EntryPoint("source.marked", f"{__name__}:MARKED", "fewstep.plugins")
    monkeypatch.setattr(folders, "plugins", lambda kind: {"marked": entry} if kind == "source" else {})
    monkeypatch.setattr(folders, "loaded", lambda plugin: MARKED if plugin is entry else None)
    (tmp_path / "mark").touch()
    return tmp_path


def test_a_folder_is_read_by_the_plugin_that_holds_it(marked: Path) -> None:
    assert kind_of(marked) is MARKED
    with pytest.raises(UserError, match="was read by the plugin"):
        load_source(str(marked))


def test_another_folder_is_not(marked: Path) -> None:
    (marked / "mark").unlink()
    assert kind_of(marked) is None
    with pytest.raises(UserError, match="model_index.json"):
        load_source(str(marked))


def test_a_plugin_of_another_type_is_refused(marked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "loaded", lambda plugin: "no kind")
    with pytest.raises(UserError, match=r"plugin source\.marked is no FolderKind"):
        kind_of(marked)


def test_lerobot_is_a_plugin_of_this_package() -> None:
    from fewstep.plans.plugins import loaded, plugins
    from fewstep.robots.lerobot.kind import LEROBOT

    assert loaded(plugins("source")["lerobot"]) is LEROBOT
