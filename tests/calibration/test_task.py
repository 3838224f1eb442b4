"""Only entry points take CalibrateOptions: all other code of calibration takes the task that they open."""

import ast
from pathlib import Path

import fewstep.calibration

ENTRY_POINTS = {"options.py", "open_task.py", "calibrate.py"}


def test_only_entry_points_take_the_options() -> None:
    (folder,) = map(Path, fewstep.calibration.__path__)
    naming = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "CalibrateOptions"
    }
    assert naming == ENTRY_POINTS
    calls = ast.parse((folder / "calibrate.py").read_text()).body
    takers = [call.name for call in calls if isinstance(call, ast.FunctionDef) and "CalibrateOptions" in ast.dump(call)]
    assert takers == ["calibrate"]
