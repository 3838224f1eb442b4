"""A task ends the options: what measures, chooses and writes takes no other word of them."""

import ast
from pathlib import Path

import fewstep.calibration

DOOR = {"options.py", "open_task.py", "calibrate.py"}


def test_behind_the_door_nobody_takes_the_options() -> None:
    (folder,) = map(Path, fewstep.calibration.__path__)
    naming = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "CalibrateOptions"
    }
    assert naming == DOOR
    calls = ast.parse((folder / "calibrate.py").read_text()).body
    takers = [each.name for each in calls if isinstance(each, ast.FunctionDef) and "CalibrateOptions" in ast.dump(each)]
    assert takers == ["calibrate"]
