"""Only the runtime's table and the targets themselves contain the names of targets or build names of bodies."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from fewstep.runtime.bundle.platforms import PLATFORMS
from tests.packages import ONE_PROCESS, PACKAGES, nodes, parse_source

ROOT = Path(__file__).parent.parent
OWN = (
    Path("runtime/bundle/platforms.py"),
    Path("calibration/lowering/targets"),
)
ENGINES = {platform.backend for platform in PLATFORMS}
NAMES = sorted({platform.name for platform in PLATFORMS} - ENGINES, key=len, reverse=True)  # others name engines too
SPELLED = re.compile(rf"\b(?:{'|'.join(NAMES)})\b|\bint8-|^cpu-|--target [a-z]")
EITHER = re.compile("|".join([*NAMES, *(f"int8-{name}" for name in ENGINES)]))


def files() -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [path for path in found if not any(path.relative_to(ROOT).is_relative_to(own) for own in OWN)]


def literals(tree: ast.Module) -> Iterator[ast.Constant]:
    """Return the string literals other than docstrings."""
    expressions = {id(node.value) for node in nodes(tree) if isinstance(node, ast.Expr)}
    for node in nodes(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in expressions:
            yield node


def prose(text: str) -> Iterator[str]:
    """Return docstrings and comments."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            yield token.string


def by_name(tree: ast.Module) -> Iterator[ast.Compare]:
    """Return comparisons of a target with a string."""
    for node in nodes(tree):
        if isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            is_target = any(isinstance(side, ast.Attribute) and side.attr == "target" for side in sides)
            if is_target and any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides):
                yield node


def faults(text: str, tree: ast.Module | None = None) -> list[str]:
    tree = tree or ast.parse(text)
    found = [node.value for node in literals(tree) if SPELLED.search(node.value)]
    if len(set(EITHER.findall(text))) > 1:
        found += [said for said in prose(text) if len(set(EITHER.findall(said))) > 1]  # an example is no list
    return found + [ast.unparse(node) for node in by_name(tree)]


@ONE_PROCESS
def test_no_other_file_spells_the_names_of_targets() -> None:
    paths = files()
    assert len(paths) > 300
    found = {
        str(path.relative_to(ROOT)): said for path in paths if (said := faults(path.read_text(), parse_source(path)))
    }
    assert not found


def test_what_the_rule_finds() -> None:
    for text in (
        'name = "cpu-x86"',
        'name = f"int8-{target}"',
        'name.removeprefix("int8-")',
        'target.startswith("cpu-")',
        'fix = f"fewstep calibrate {bundle} --target tensorrt"',
        'body.target == "tensorrt"',
        "a = 1  # cpu-x86, cpu-arm",
        '"""One of int8-tensorrt and cpu-arm."""',
    ):
        assert len(faults(text)) == 1, text
    for text in ('"""A body, such as int8-cpu-x86."""', 'import_("tensorrt")', 'f"calibrate --target {target}"'):
        assert faults(text) == [], text
