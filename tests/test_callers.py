"""Each function of the packages has a caller in the packages, or docs/design.md names it for programs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.packages import ONE_PROCESS, PACKAGES, nodes, parse_source

ROOT = Path(__file__).parent.parent
NAMED = (ROOT / "docs/design.md").read_text().partition("No verb calls the following")[2].partition("There is no")[0]
REGISTRIES = {"plans.solvers", "plans.grids"}  # which read what they do not only export
BY_DECORATOR = {"Published", "published_orders"}  # of solvers, which plans find by it
BY_NAME = re.compile(
    r"cli\.verbs\.\w+\.(verb|dry_run)|calibration\.lowering\.targets\..*|literature\..*"
    r"|plans\.(transforms|tokens\.samplers|light_steps)\..*|.*\.__\w+__"
)

Modules = dict[str, ast.Module]


def modules() -> Modules:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    names = [file.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__") for file in files]
    return {name.replace("/", "."): parse_source(file) for name, file in zip(names, files)}


def names_read(tree: ast.Module, known: Modules) -> Iterator[str]:
    """Return the names of other modules that a module reads: imports, or attributes of an imported module."""
    imported: dict[str, str] = {}
    for node in nodes(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fewstep."):
            for alias in node.names:
                full = f"{node.module}.{alias.name}".removeprefix("fewstep.")
                yield full
                imported[alias.asname or alias.name] = full
        elif isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name.removeprefix("fewstep.") for alias in node.names}
    modules = {name for name, full in imported.items() if full in known}
    if not modules:
        return
    for node in nodes(tree):
        if isinstance(node, ast.Attribute) and (owner := dotted_name(node.value)) in modules:
            yield f"{imported[owner]}.{node.attr}"


def dotted_name(node: ast.expr) -> str:
    """Return `a.b` for a chain of names, and nothing for other expressions."""
    if isinstance(node, ast.Attribute):
        owner = dotted_name(node.value)
        return owner and f"{owner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def functions_without_callers(known: Modules) -> set[str]:
    """Return functions and classes that no package reads. A package's `__init__` only reads what it re-exports."""
    packages = {name for name in known if any(other.startswith(f"{name}.") for other in known)}
    read = {
        name
        for module, tree in known.items()
        if module not in packages - REGISTRIES
        for name in names_read(tree, known)
    }
    exports = {name: set(names_read(known[name], known)) for name in packages}
    read |= {full for name in packages for full in exports[name] if f"{name}.{full.rpartition('.')[2]}" in read}
    found = set()
    for module, tree in known.items():
        said = [{node.id for node in nodes(statement) if isinstance(node, ast.Name)} for statement in tree.body]
        for owner in tree.body:
            if not isinstance(owner, ast.FunctionDef | ast.ClassDef) or f"{module}.{owner.name}" in read:
                continue
            if BY_DECORATOR & {
                dotted_name(decorator.func) for decorator in owner.decorator_list if isinstance(decorator, ast.Call)
            }:
                continue
            if not any(owner.name in names for statement, names in zip(tree.body, said) if statement is not owner):
                found.add(f"{module}.{owner.name}")
    return {name for name in found if not BY_NAME.fullmatch(name)}


def functions_of_table() -> set[str]:
    """Return the functions of the table. A name without a dot is of the module of the one before it."""
    names, module = set(), ""
    for name in re.findall(r"`([\w.]+)`", NAMED.partition("plans.transforms")[2]):
        module = name.rpartition(".")[0] or module
        names.add(name if "." in name else f"{module}.{name}")
    return names


@ONE_PROCESS
def test_no_function_is_there_for_tests_alone() -> None:
    assert functions_without_callers(modules()) == functions_of_table()


def test_a_function_without_a_caller_is_found() -> None:
    reader = "from fewstep.a.b import one\nfrom fewstep.a import b\nb.two()"
    of = {"a.b": "def one(): ...\ndef two(): ...\ndef three(): three()\ndef four(): ...\nFOUR = four()", "a.c": reader}
    assert functions_without_callers({name: ast.parse(text) for name, text in of.items()}) == {"a.b.three"}
