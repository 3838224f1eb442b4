"""A reader of the packages meets short functions, modules with few imports, and few options and words."""

import ast
import warnings

import pytest

from tests import reader_limits
from tests.packages import ONE_PROCESS


@pytest.fixture(scope="module")
def figures() -> reader_limits.Figures:
    return reader_limits.measure()


@ONE_PROCESS
@pytest.mark.parametrize("limit", reader_limits.limits())
def test_only_listed_exceptions_exceed_a_limit(figures: reader_limits.Figures, limit: str) -> None:
    allowed = reader_limits.limits()[limit]
    over = {name: figure for name, figure in figures.by_name()[limit].items() if figure > allowed}
    assert {name: over[name] for name in over.keys() - reader_limits.exceptions()[limit].keys()} == {}


@ONE_PROCESS
def test_every_exception_still_exceeds_its_limit(figures: reader_limits.Figures) -> None:
    allowed = reader_limits.limits()
    needless = {
        f"{limit}: {name}"
        for limit, names in reader_limits.exceptions().items()
        for name in names
        if figures.by_name()[limit].get(name, 0) <= allowed[limit]
    }
    assert needless == set()


@ONE_PROCESS
@pytest.mark.parametrize("name", reader_limits.warning_limits())
def test_other_figures_only_warn(figures: reader_limits.Figures, name: str) -> None:
    of_names = figures.by_name().get(name) or {name: figures.totals[name]}
    if above := {key: figure for key, figure in of_names.items() if figure > reader_limits.warning_limits()[name]}:
        warnings.warn(f"{name}: {above}", stacklevel=1)


def test_every_exception_has_a_reason() -> None:
    reasons = [reason for names in reader_limits.exceptions().values() for reason in names.values()]
    assert all(len(reason.split()) >= 3 for reason in reasons)


def function(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


def test_lines_of_a_function_leave_out_its_docstring() -> None:
    assert reader_limits.line_count(function('def f():\n    """One.\n\n    Two.\n    """\n    return 1')) == 2


def test_branches_count_operands_and_filters() -> None:
    text = "def f(a, b, c):\n if a and b and c:\n  return [x for x in a if x]\n return b if c else a"
    assert reader_limits.branch_count(function(text)) == 1 + 2 + 1 + 1


def test_nested_functions_and_methods_are_found() -> None:
    trees = {"m": ast.parse("class A:\n def f(self):\n  def g(): pass\nif True:\n def h(): pass")}
    assert [name for name, _ in reader_limits.functions(trees)] == ["m.A.f", "m.A.f.g", "m.h"]


def test_imports_inside_functions_count() -> None:
    trees = {name: ast.parse("") for name in ("fewstep.b", "fewstep.b.c", "fewstep.d")}
    tree = ast.parse("import fewstep.d\nimport os\ndef f():\n    from fewstep.b import c, other")
    assert reader_limits.modules_imported_by(tree, trees) == {"fewstep.b", "fewstep.b.c", "fewstep.d"}


def test_dependencies_are_those_at_import_and_packages_with_code() -> None:
    sources = {
        "fewstep.a": '"""Only a docstring."""',
        "fewstep.a.verb": "from fewstep.b import c\ndef later():\n    from fewstep.b import d",
        "fewstep.b": "import os",
        "fewstep.b.c": "from fewstep.a import verb",
        "fewstep.b.d": "import os",
    }
    trees = {name: ast.parse(text) for name, text in sources.items()}
    assert reader_limits.dependencies("fewstep.a.verb", trees) == {
        "fewstep.a.verb",
        "fewstep.b",
        "fewstep.b.c",
    }


def test_names_of_tokens_count_once_a_line_and_not_in_files_about_tokens() -> None:
    text = "from fewstep.x import TokenPlan\na = b.vocabulary is None or b.vocabulary.size\nc = AnyPlan\ntokens = 1"
    trees = {name: ast.parse(text) for name in ("fewstep.measure.judge", "fewstep.runtime.sampling.tokens")}
    assert reader_limits.token_mentions(trees) == {"fewstep.measure.judge": [1, 2]}
