"""A walk enters the functions that receive a value, or what is computed from it."""

import ast

from tests.walks.definitions import Definitions
from tests.walks.walk import walk


def stops(**modules: str) -> str:
    """The modules of the walk that follows the parameter `x` of the function `start` in the module `a`."""
    definitions = Definitions({name: ast.parse(text) for name, text in modules.items()})
    return " ".join(walk(definitions, "a.start", "x"))


def test_a_function_that_receives_the_value_is_entered() -> None:
    assert stops(a="from b import f\ndef start(x): f(1, x)", b="def f(y, z): pass") == "a b"


def test_a_function_that_receives_another_value_is_not_entered() -> None:
    assert stops(a="from b import f\ndef start(x, y): f(y)", b="def f(y): pass") == "a"


def test_a_stop_is_counted_again_for_another_function_of_a_file() -> None:
    text = "from b import f, g\nfrom c import h\ndef start(x):\n f(x)\n h(x)\n g(x)"
    assert stops(a=text, b="def f(y): pass\ndef g(y): pass", c="def h(y): pass") == "a b c b"


def test_a_function_is_entered_once_for_a_parameter() -> None:
    text = "from b import f\nfrom c import h\ndef start(x):\n f(x)\n h(x)\n f(x)"
    assert stops(a=text, b="def f(y): pass", c="def h(y): pass") == "a b c"


def test_results_are_computed_from_arguments() -> None:
    assert stops(a="from b import f\ndef start(x):\n y = int(x)\n f(y)", b="def f(y): pass") == "a b"


def test_a_field_is_a_part() -> None:
    classes = "class C:\n field: int\ndef f(y): pass"
    assert stops(a="from b import C, f\ndef start(x: C): f(x.field)", b=classes) == "a"


def test_what_is_computed_from_a_part_is_followed() -> None:
    classes = "class C:\n field: int\ndef f(y): pass"
    assert stops(a="from b import C, f\ndef start(x: C): f(int(x.field))", b=classes) == "a b"


def test_a_property_is_a_function() -> None:
    classes = "class C:\n @property\n def p(self): pass"
    assert stops(a="from b import C\ndef start(x: C): return x.p", b=classes) == "a b"


def test_a_method_of_a_base_class_is_entered_where_it_is_defined() -> None:
    text = "from b import D\ndef start(x: 'list[D]'):\n for each in x: each.m()"
    assert stops(a=text, b="from c import C\nclass D(C): pass", c="class C:\n def m(self): pass") == "a c"


def test_a_class_of_a_result_has_the_methods_of_its_annotation() -> None:
    text = "from b import f\ndef start(x): f(x).m()"
    assert stops(a=text, b="from c import C\ndef f(y) -> C: pass", c="class C:\n def m(self): pass") == "a b c"


def test_a_matched_class_has_its_methods() -> None:
    text = "from b import C\ndef start(x):\n match x:\n  case C() as c: c.m()"
    assert stops(a=text, b="class C:\n def m(self): pass") == "a b"


def test_a_constructor_is_a_function() -> None:
    assert stops(a="from b import C\ndef start(x): C(x)", b="class C:\n def __post_init__(self): pass") == "a b"


def test_a_partial_function_receives_its_arguments() -> None:
    text = "from functools import partial\nfrom b import f\ndef start(x): return partial(f, x)"
    assert stops(a=text, b="def f(y): pass") == "a b"


def test_names_that_a_module_imports_are_followed_to_their_definition() -> None:
    assert stops(a="from b import f\ndef start(x): f(x)", b="from c import g as f", c="def g(y): pass") == "a c"


def test_a_function_inside_a_function_hides_the_name_of_another() -> None:
    text = "from b import f\ndef start(x):\n def f(y): pass\n f(x)"
    assert stops(a=text, b="def f(y): pass") == "a"
