"""What a robot calls observations, by the steps of a preprocessor."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.statistics import RENAMED, robot_names


def renaming(folder: Path, *maps: Any) -> Path:
    steps = [{"registry_name": RENAMED, "config": {"rename_map": each}} for each in maps]
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
    return folder


def test_steps_rename_one_after_the_other(tmp_path: Path) -> None:
    assert robot_names(renaming(tmp_path, {"a": "b"}, {"b": "c"}), ["c"]) == {"c": "a"}
    assert robot_names(renaming(tmp_path, {"a": "b", "b": "a"}), ["a", "b"]) == {"a": "b", "b": "a"}


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ([{"a": ["b"]}], "has a rename_map that gives no name for each name"),
        ([["a", "b"]], "has a rename_map that gives no name for each name"),
        ([{"a": "d"}], "renames a to d, which is none of the policy's b, c"),
        ([{"a": "b"}, {"b": "d"}], "renames a to d, which is none"),
        ([{"a": "b"}, {"d": "b"}], "renames a and d to b"),
    ],
)
def test_a_name_without_one_place_is_refused(tmp_path: Path, maps: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        robot_names(renaming(tmp_path, *maps), ["b", "c"])
