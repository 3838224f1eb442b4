"""Code in a component's folder, which is never run, and weights that its config names, which are never fetched."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.export.sources.remote_code import refuse_remote_code, stay_local
from fewstep.pipelines.files.folder import Folder
from fewstep.plans.errors import UserError
from tests import recorded_pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import huggingface_hub
import transformers

from fewstep.pipelines.recording import components
from tests.refusals import refuses


@pytest.fixture
def answer_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.fixture
def folder_with_code(tmp_path: Path) -> Path:
    """A folder whose tokenizer is a class of its own file, which writes the file `ran` when it is imported."""
    folder = recorded_pipelines.wan(tmp_path / "wan")
    edit(folder / "model_index.json", tokenizer=["transformers", "AutoTokenizer"])
    auto_map = {"AutoTokenizer": ["own.OwnTokenizer", None]}
    edit(folder / "tokenizer/tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=auto_map)
    code = f"import transformers\nopen({str(tmp_path / 'ran')!r}, 'w')\nclass OwnTokenizer(transformers.T5Tokenizer): 1"
    (folder / "tokenizer/own.py").write_text(code)
    return folder


def test_a_tokenizer_with_code_in_its_folder_is_refused(folder_with_code: Path, answer_yes: None) -> None:
    with refuses(("tokenizer_config.json", "own.OwnTokenizer")):
        components.build_pipeline(Folder(folder_with_code))
    assert not (folder_with_code.parent / "ran").exists()


def test_code_that_no_entry_announces_does_not_run(
    folder_with_code: Path, answer_yes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "refuse_remote_code", lambda home: None)
    with refuses(("tokenizer", "cannot be read as a AutoTokenizer")):
        components.build_pipeline(Folder(folder_with_code))
    assert not (folder_with_code.parent / "ran").exists()


def test_transformers_does_not_ask_whether_to_run_code(answer_yes: None) -> None:
    resolve = transformers.dynamic_module_utils.resolve_trust_remote_code
    with stay_local(), pytest.raises(ValueError, match="custom code"):
        resolve(None, "model", has_local_code=False, has_remote_code=True)


def test_the_hub_is_offline() -> None:
    with stay_local():
        assert huggingface_hub.constants.is_offline_mode()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"text_config": {"auto_map": {"AutoModel": "own.Net"}}}, r"names code .*own\.Net"),
        ({"backbones": [{"use_pretrained_backbone": True}]}, "names weights outside the folder"),
    ],
)
def test_nested_entries_are_refused(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=says):
        refuse_remote_code(tmp_path)


def test_an_entry_that_is_off_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"use_pretrained_backbone": False, "auto_map": {}}))
    refuse_remote_code(tmp_path)
