"""Limits on what a reader of the sources has to keep in mind. `python -m tests.reader_limits` prints the figures.

tests/reader_limits.toml has the limits, and the exceptions with their reasons. Above the figures of its section
`warnings` a test only warns. Lines of code are printed for information: shorter is not clearer.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.docs import test_design, verbs_page
from tests.packages import PACKAGES, imports_of_modules, module_files, name_of, nodes, parse_source, toml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests/reader_limits.toml"
OTHER_FOLDERS = ("tests", "benchmarks", "lab", "zoo")  # with Python files that a wheel does not have
ENTRANCES = {  # the module by which a reader enters each capability whose dependencies are limited
    "load": "fewstep.runtime.sampling.loading",
    "calibrate": "fewstep.calibration.calibrate",
}
TOKEN_NAMES = re.compile(  # of plans and runs of tokens, and the vocabulary that a denoiser of tokens has
    r"vocabulary(_of)?|LOGITS|\w*[Tt]oken_?[Pp]lan\w*|(RecordedToken|Token(Step|State|Run|Network|Outputs|Space))\w*"
    r"|_?(begin|check|compile|decode|execute|finish|judge|refuse_for)_tokens"
)
TOKEN_FILES = re.compile(r"token|vocabulary|sample_space|any_plan|bake\.reveal|^fewstep\.(robots|literature)")
VERB = re.compile(r"fewstep\.cli\.verbs\.\w+")
COUNTED_BRANCHES = (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.match_case)


@dataclass(frozen=True)
class Figures:
    """Of folders, modules and functions: the figures of each dotted name, by the limit's name. `totals`: one number."""

    of_folders: dict[str, dict[str, int]]
    of_modules: dict[str, dict[str, int]]
    of_functions: dict[str, dict[str, int]]
    totals: dict[str, int]

    def by_name(self) -> dict[str, dict[str, int]]:
        """The figures that may have exceptions."""
        return self.of_folders | self.of_modules | self.of_functions


def measure() -> Figures:
    """The figures of all packages."""
    trees = {name_of(file): parse_source(file) for file in module_files()}
    by_name = dict(functions(trees))
    lines = {name_of(file): count_lines(file) for file in module_files()}
    return Figures(
        {"folder_files": files_in_folders()},
        {
            "imported_modules": {name: len(modules_imported_by(tree, trees)) for name, tree in trees.items()},
            "file_lines": lines | lines_of_other_files(),
            "verb_lines": {name: count for name, count in lines.items() if VERB.fullmatch(name)},
        },
        {
            "function_lines": {name: line_count(function) for name, function in by_name.items()},
            "function_branches": {name: branch_count(function) for name, function in by_name.items()},
        },
        {f"files_under_{name}": len(dependencies(module, trees)) for name, module in ENTRANCES.items()}
        | {
            "token_mentions": sum(map(len, token_mentions(trees).values())),
            "command_line_options": len({flag for verb in verbs_page.VERBS for flag in verbs_page.flags(verb)}),
            "glossary_words": len(test_design.WORDS),
        },
    )


def modules_imported_by(tree: ast.Module, modules: Mapping[str, ast.Module]) -> set[str]:
    """The modules of fewstep that a module imports, inside its functions too."""
    imported = set[str]()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            imported |= {name if name in modules else node.module for name in names}
    return imported & modules.keys()


def functions(modules: Mapping[str, ast.Module]) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method with its dotted name."""
    for name, tree in modules.items():
        yield from _functions(tree.body, name)


def _functions(body: Iterable[ast.AST], owner: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{owner}.{node.name}", node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _functions(ast.iter_child_nodes(node), f"{owner}.{node.name}")
        elif isinstance(node, ast.stmt):
            yield from _functions(ast.iter_child_nodes(node), owner)


def line_count(function: ast.AST) -> int:
    """The lines of a function from `def` to its end, without its docstring."""
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    first = function.body[0]
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def branch_count(function: ast.AST) -> int:
    """The branches of a function: statements that branch or loop, each further operand of `and` and `or`, filters."""
    count = 0
    for node in ast.walk(function):
        if isinstance(node, COUNTED_BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += len(node.ifs)
    return count


def dependencies(module: str, modules: Mapping[str, ast.Module]) -> set[str]:
    """Return the modules that are imported with a module, and the packages that contain them; a file with only a
    docstring does not count.
    """
    imports = imports_of_modules(dict(modules))
    seen, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and name in imports:
            seen.add(name)
            waiting += [*imports[name], name.rpartition(".")[0]]
    return {name for name in seen if name == module or modules[name].body[_has_docstring(modules[name]) :]}


def _has_docstring(tree: ast.Module) -> bool:
    return ast.get_docstring(tree, clean=False) is not None


def files_in_folders() -> dict[str, int]:
    """The Python files of each folder, by its path with dots, of the packages, tests, benchmarks and lab."""
    files = (file for name in (*PACKAGES, *OTHER_FOLDERS) for file in (ROOT / name).rglob("*.py"))
    return dict(Counter(".".join(file.relative_to(ROOT).parts[:-1]) for file in files))


def lines_of_other_files() -> dict[str, int]:
    """The lines of the files of tests, benchmarks and lab, by their dotted names."""
    files = (file for name in OTHER_FOLDERS for file in (ROOT / name).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): count_lines(file) for file in files}


def count_lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def token_mentions(modules: Mapping[str, ast.Module]) -> dict[str, list[int]]:
    """Return the line numbers that mention tokens, by module, in modules that are not about tokens or text.

    Annotations with `AnyPlan`, a plan of either sample space, are not counted.
    """
    found = {name: _token_lines(tree) for name, tree in modules.items() if not TOKEN_FILES.search(name)}
    return {name: lines for name, lines in found.items() if lines}


def _token_lines(tree: ast.Module) -> list[int]:
    lines = set[int]()
    for node in nodes(tree):
        names = [getattr(node, field, None) for field in ("id", "attr", "name", "arg")]
        if any(isinstance(name, str) and TOKEN_NAMES.fullmatch(name) for name in names):
            lines.add(node.lineno)  # type: ignore[attr-defined]  # all nodes with a name have a line
    return sorted(lines)


def limits() -> dict[str, int]:
    """The limit of each figure."""
    return dict(toml(FILE)["limits"])


def warning_limits() -> dict[str, int]:
    """The figures above which a test warns: they show where to look, and a split for the number alone helps nobody."""
    return dict(toml(FILE)["warnings"])


def exceptions() -> dict[str, dict[str, str]]:
    """For each limit, the dotted names that may exceed it, with the reason."""
    return {limit: dict(names) for limit, names in toml(FILE)["exceptions"].items()}


def code_lines() -> dict[str, int]:
    """The lines of each package, of the tests, benchmarks and pages. They are printed and have no limit."""
    folders = {name: (ROOT / name).rglob("*.py") for name in (*PACKAGES, *OTHER_FOLDERS)}
    pages = {"docs": [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
    return {name: sum(map(count_lines, files)) for name, files in (folders | pages).items()}


def main() -> None:
    figures, allowed, named = measure(), limits() | warning_limits(), exceptions()
    for limit, of_names in figures.by_name().items():
        over = sorted(((figure, name) for name, figure in of_names.items() if figure > allowed[limit]), reverse=True)
        print(f"{limit}: {len(over)} above {allowed[limit]}")
        for figure, name in over:
            print(f"  {figure:4} {name}" + ("" if name in named.get(limit, ()) else "  NOT LISTED"))
    for name, figure in figures.totals.items():
        print(f"{name}: {figure}, warned above {allowed[name]}")
    for module, lines in token_mentions({name_of(file): parse_source(file) for file in module_files()}).items():
        print(f"  {len(lines):4} {module}: lines {', '.join(map(str, lines))}")
    print("lines, without a limit:")
    for name, count in code_lines().items():
        print(f"  {count:6} {name}")


if __name__ == "__main__":
    main()
