"""The import graph of modules has no cycle, counting only the imports that run when a module is imported.

Import contracts check the order of packages and folders. They also see imports inside functions, and ignore some of
them. This test checks every module, without imports inside functions.
"""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.packages import ONE_PROCESS, imports_of_modules, module_files, name_of, parse_source


@ONE_PROCESS
def test_modules_have_no_import_cycle() -> None:
    graph = imports_of_modules({name_of(file): parse_source(file) for file in module_files()})
    assert len(graph) > 400 and sum(map(len, graph.values())) > 1500
    assert "fewstep.plans.plan" in graph["fewstep.plans.compile"]
    assert len(tuple(TopologicalSorter(graph).static_order())) == len(graph)


def test_a_cycle_is_found() -> None:
    one, other = ast.parse("from fewstep.a import b"), ast.parse("import fewstep.a.c")
    graph = imports_of_modules({"fewstep.a.c": one, "fewstep.a.b": other})
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph).static_order())
