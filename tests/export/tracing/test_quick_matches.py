"""onnxscript's optimizer visits the graph once for each node that may end a pattern, not once for each node."""

import sys
from typing import Any

import onnx_ir as ir
import pytest
from onnxscript import rewriter
from onnxscript.rewriter import _matcher
from onnxscript.rewriter._matcher import SimplePatternMatcher

from fewstep.export.tracing.exporter_speedups import skip_impossible_matches


class Unread(Exception):
    pass


class Graph:
    """A graph whose nodes must not be iterated."""

    graph = None

    def __iter__(self) -> Any:
        raise Unread


@pytest.mark.parametrize(("op", "reads"), [("Add", False), ("Slice", True)])
def test_a_node_that_ends_no_pattern_costs_nothing(op: str, reads: bool) -> None:
    (halves,) = (rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule.name == "SlicesSplit")
    model: Any = Graph()
    node = ir.node(op, [ir.Value(name=name) for name in ("x", "y")])
    with pytest.raises(Unread):
        halves.match(model, model, node)
    with skip_impossible_matches():
        if reads:
            with pytest.raises(Unread):
                halves.match(model, model, node)
        else:
            assert not halves.match(model, model, node)
    with pytest.raises(Unread):
        halves.match(model, model, node)


@pytest.mark.parametrize("module", ["onnxscript.rewriter._basics", "onnxscript.rewriter._matcher"])
def test_a_release_without_these_modules_is_left_as_it_is(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match = SimplePatternMatcher.match
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    with skip_impossible_matches():
        assert SimplePatternMatcher.match is match


def test_so_is_one_whose_matcher_has_other_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        pass

    monkeypatch.setattr(_matcher, "SimplePatternMatcher", Other)
    with skip_impossible_matches():
        assert not hasattr(Other, "match")


def test_a_pattern_without_a_list_of_its_last_nodes_goes_through_the_graph() -> None:
    (halves,) = (rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule.name == "SlicesSplit")
    matcher: Any = SimplePatternMatcher(halves._target_pattern)
    matcher.pattern = object()
    calls: list[tuple[Any, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimplePatternMatcher, "match", lambda self, *given, **options: calls.append(given))
        with skip_impossible_matches():
            matcher.match("model", "graph", ir.node("Add", [ir.Value(name="x"), ir.Value(name="y")]))
    assert len(calls) == 1
