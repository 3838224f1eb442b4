"""Only entry points take the options of a verb: they make a task of the options, and all other code takes the task.

An entry point is a module that defines options, the function of a verb, or an `open_...` function of a task. Other
modules of the packages take no options.
"""

import ast

from tests.packages import ONE_PROCESS, module_files, name_of, parse_source

PACKAGES = ("calibration", "fitting", "measure", "report")
VERBS = {"calibrate", "fit", "measure", "choose", "report", "inspect", "verify", "diagnose"}
PAGES = {"report.drawing.plan_view"}  # it only prints `fewstep plan`


def takes_options(tree: ast.Module) -> dict[str, str]:
    """Return the options class of each function that takes one."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if argument.annotation is not None and (named := ast.unparse(argument.annotation)).endswith("Options"):
                    found[node.name] = named
    return found


def is_entry_point(tree: ast.Module, functions: set[str]) -> bool:
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return (
        bool(functions & VERBS)
        or any(name.startswith("open_") for name in functions)
        or any(name.endswith("Options") for name in classes)
    )


@ONE_PROCESS
def test_only_entry_points_take_the_options_of_a_verb() -> None:
    inside, entry_points = {}, set()
    for file in module_files():
        name = name_of(file).removeprefix("fewstep.")
        taken = takes_options(parse_source(file))
        if not name.startswith(PACKAGES) or not taken or name in PAGES:
            continue
        if is_entry_point(parse_source(file), set(taken)):
            entry_points.add(name)
        else:
            inside |= {f"{name}.{function}": options for function, options in taken.items()}
    assert inside == {}
    assert entry_points == {
        "calibration.calibrate",
        "calibration.open_task",
        "calibration.options",
        "fitting.fit",
        "fitting.light_steps",
        "fitting.task",
        "measure.measure",
        "report.choosing.choose",
        "report.bundle_contents",
        "report.diagnosis",
        "report.integrity",
        "report.report",
        "report.report_task",
    }
