"""Each public class of the packages has a name of its own: one word has one meaning."""

import ast
from collections import Counter
from pathlib import Path

from tests.packages import ONE_PROCESS, PACKAGES, parse_source

ROOT = Path(__file__).parent.parent
ARCHITECTURES = "models"  # whose networks have the names of their papers, such as UNet


def public_classes(tree: ast.Module) -> list[str]:
    return [
        statement.name
        for statement in tree.body
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_")
    ]


@ONE_PROCESS
def test_no_public_class_has_the_name_of_another() -> None:
    files = [file for package in PACKAGES if package != ARCHITECTURES for file in (ROOT / package).rglob("*.py")]
    names = Counter(name for file in files for name in public_classes(parse_source(file)))
    assert len(names) > 300
    assert [name for name, count in names.items() if count > 1] == []
