"""A verb's options end at its door: what is below takes the task that was opened of them.

A door is a module that defines options, a verb's own function, or `open_...` of a task. Other modules of the rooms that
judge take no options.
"""

import ast

from tests.packages import ONE_PROCESS, module_files, name_of, parsed

ROOMS = ("calibration", "fitting", "measure", "report")
VERBS = {"calibrate", "fit", "measure", "choose", "report", "inspect", "verify", "diagnose"}
PAGES = {"report.drawing.plan_view"}  # what `fewstep plan` shows, and nothing else


def takes_options(tree: ast.Module) -> dict[str, str]:
    """The options class of each function that takes one."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if argument.annotation is not None and (named := ast.unparse(argument.annotation)).endswith("Options"):
                    found[node.name] = named
    return found


def is_door(tree: ast.Module, functions: set[str]) -> bool:
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return (
        bool(functions & VERBS)
        or any(name.startswith("open_") for name in functions)
        or any(name.endswith("Options") for name in classes)
    )


@ONE_PROCESS
def test_no_function_below_a_door_takes_a_verbs_options() -> None:
    inside, doors = {}, set()
    for file in module_files():
        name = name_of(file).removeprefix("fewstep.")
        taken = takes_options(parsed(file))
        if not name.startswith(ROOMS) or not taken or name in PAGES:
            continue
        if is_door(parsed(file), set(taken)):
            doors.add(name)
        else:
            inside |= {f"{name}.{function}": options for function, options in taken.items()}
    assert inside == {}
    assert doors == {
        "calibration.calibrate",
        "calibration.open_task",
        "calibration.options",
        "fitting.fit",
        "fitting.task",
        "measure.judged_task",
        "measure.measure",
        "report.choosing.choose",
        "report.bundle_contents",
        "report.diagnosis",
        "report.integrity",
        "report.report",
    }
