"""No module needs, while it is imported, a module that needs it: the import graph of modules has no circle.

Import contracts hold the order of packages and folders; they see imports inside functions too, and some are left out
there. This test sees each module alone, and only the imports that run with it.
"""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.packages import ONE_PROCESS, module_files, name_of, needed_at_import, parsed


@ONE_PROCESS
def test_modules_import_each_other_in_no_circle() -> None:
    graph = needed_at_import({name_of(file): parsed(file) for file in module_files()})
    assert len(graph) > 400 and sum(map(len, graph.values())) > 1500
    assert "fewstep.plans.plan" in graph["fewstep.plans.compile"]
    assert len(tuple(TopologicalSorter(graph).static_order())) == len(graph)


def test_a_circle_is_found() -> None:
    one, other = ast.parse("from fewstep.a import b"), ast.parse("import fewstep.a.c")
    graph = needed_at_import({"fewstep.a.c": one, "fewstep.a.b": other})
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph).static_order())
