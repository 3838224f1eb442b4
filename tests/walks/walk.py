"""Walks: the files of a reader who follows a parameter and every value that is computed from it.

A walk begins in the function that has the parameter. Wherever the code hands such a value to a function of fewstep, the
walk enters that function, once for each of its parameters, in the order in which the code runs. A *stop* is a stay in a
file: the first one, and each time that the function entered is in another file than the one entered before it.

The result of a call is computed from its arguments. A field of a followed value is a part of it: a function that
receives only a part is not entered, but its result is computed from the value. A property is a function. Annotations
of parameters, fields and results tell which method a call means, so a walk ends at a callback, at a protocol, and at a
value without an annotation.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tests.walks.definitions import Definitions, Function, Types, decorators

CONSTRUCTORS = ("__init__", "__post_init__")


@dataclass(frozen=True)
class Value:
    """Whether a walk follows an expression's value, the classes that the value may have, and whether it is a part of a
    value that the walk follows."""

    is_followed: bool = False
    types: Types = frozenset()
    is_part: bool = False

    def __or__(self, other: "Value") -> "Value":
        return Value(self.is_followed or other.is_followed, self.types | other.types, self.is_part or other.is_part)

    def with_types(self, types: Types) -> "Value":
        return replace(self, types=types)


@dataclass(frozen=True)
class Argument:
    """An argument of a call. key: its position or its keyword; "*" and "**" for unpacked ones."""

    key: int | str
    value: Value


@dataclass
class Walk:
    """The functions that a walk has entered. stops: the module of each stop."""

    definitions: Definitions
    stops: list[str] = field(default_factory=list)
    _entered: dict[str, set[str]] = field(default_factory=dict)

    def enter(self, name: str, parameters: Iterable[str], of_self: Types = frozenset()) -> None:
        """Follow parameters of a function, unless the walk has followed them before."""
        definition, followed = self.definitions.nodes[name], self._entered.setdefault(name, set())
        if not isinstance(definition, Function) or followed.issuperset(parameters):
            return
        followed.update(parameters)
        module = self.definitions.module_of[name]
        if self.stops[-1:] != [module]:
            self.stops.append(module)
        _Reader(self, module, definition, followed, of_self or frozenset({name.rpartition(".")[0]})).read()


def walk(definitions: Definitions, function: str, parameter: str) -> list[str]:
    """Return the module of each stop of the walk that follows a function's parameter."""
    new = Walk(definitions)
    new.enter(function, [parameter])
    return new.stops


class _Reader:
    """Reads one function, with the values of its names so far."""

    def __init__(self, walk: Walk, module: str, function: Function, followed: set[str], of_self: Types) -> None:
        self.walk, self.definitions, self.module, self.function = walk, walk.definitions, module, function
        self.values: dict[str, Value] = {}
        for each in _parameters(function):
            types = of_self if each.arg in ("self", "cls") else self.types(each.annotation)
            self.values[each.arg] = Value(each.arg in followed, types)

    def types(self, annotation: ast.expr | None) -> Types:
        return self.definitions.types(self.module, annotation)

    def read(self) -> None:
        for statement in self.function.body:
            self.statement(statement)

    def statement(self, node: ast.AST) -> None:
        """Read a statement, or another part of one that holds statements or expressions."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.inner_function(node)
            case ast.Assign(targets, value):
                made = self.value(value)
                for target in targets:
                    self.assign(target, made)
            case ast.AnnAssign(target, annotation, value):
                made = Value() if value is None else self.value(value)
                self.assign(target, made.with_types(self.types(annotation)))
            case ast.AugAssign(target, _, value):
                self.assign(target, self.value(target) | self.value(value))
            case ast.For(target, iterated):
                self.assign(target, self.value(iterated))
                for each in (*node.body, *node.orelse):
                    self.statement(each)
            case ast.withitem(context, target):
                made = self.value(context)
                if target is not None:
                    self.assign(target, made)
            case ast.Match(subject, cases):
                for case in cases:
                    self.pattern(case.pattern, self.value(subject))
                    self.statement(case)
            case ast.expr():
                self.value(node)
            case ast.pattern():
                pass
            case _:
                for child in ast.iter_child_nodes(node):
                    self.statement(child)

    def inner_function(self, node: Function) -> None:
        """Read a function inside the function, whose own parameters are not followed."""
        outside = self.values | {node.name: Value()}  # calls of it are not entered again
        self.values |= {each.arg: Value(False, self.types(each.annotation)) for each in _parameters(node)}
        for statement in node.body:
            self.statement(statement)
        self.values = outside

    def assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(name):
                before = self.values.get(name, Value())
                self.values[name] = (value | before).with_types(value.types or before.types)
            case ast.Tuple(targets) | ast.List(targets):
                for each in targets:
                    self.assign(each, value)
            case ast.Starred(starred):
                self.assign(starred, value)
            case ast.Subscript(ast.Name(name)) if value.is_followed:
                self.assign(target.value, value)

    def pattern(self, pattern: ast.pattern, subject: Value) -> Types:
        """Assign the names of a pattern, and return the class that it matches."""
        match pattern:
            case ast.MatchClass(cls, positional, _, keyword):
                for each in (*positional, *keyword):
                    self.pattern(each, subject.with_types(frozenset()))
                return self.types(cls)
            case ast.MatchAs(inner, name):
                matched = frozenset[str]() if inner is None else self.pattern(inner, subject)
                if name is not None:
                    self.values[name] = subject.with_types(matched or subject.types)
                return matched
        for child in ast.iter_child_nodes(pattern):
            if isinstance(child, ast.pattern):
                self.pattern(child, subject)
        return frozenset()

    def value(self, node: ast.AST) -> Value:
        """Read an expression, and return its value."""
        match node:
            case ast.Name(name):
                return self.values.get(name, Value())
            case ast.Attribute():
                return self.attribute(node)
            case ast.Call():
                return self.call(node)
            case ast.NamedExpr(target, value):
                made = self.value(value)
                self.assign(target, made)
                return made
            case ast.Lambda(arguments, body):
                return self.in_scope(lambda: self.value(body), [each.arg for each in arguments.args])
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.in_scope(lambda: self.comprehension(node), [])
            case ast.Compare(left, _, others):
                made = Value()
                for each in (left, *others):
                    made |= self.value(each)
                return made.with_types(frozenset())
            case ast.Subscript(value, index):
                self.value(index)
                return self.value(value)
            case ast.IfExp(test, body, other):
                self.value(test)
                return self.value(body) | self.value(other)
        made = Value()
        for child in ast.iter_child_nodes(node):
            made |= self.value(child)
        return made

    def in_scope(self, read: Callable[[], Value], names: Iterable[str]) -> Value:
        """Read with new names, which end with the expression."""
        outside = dict(self.values)
        self.values |= dict.fromkeys(names, Value())
        made = read()
        self.values = outside
        return made

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Value:
        made = Value()
        for each in node.generators:
            iterated = self.value(each.iter)
            made |= iterated.with_types(frozenset())
            self.assign(each.target, iterated)
            for test in each.ifs:
                self.value(test)
        elements = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        for element in elements:
            made |= self.value(element)
        return made

    def attribute(self, node: ast.Attribute) -> Value:
        """Read an attribute: a property is entered, and a field is another value."""
        if self.resolve_name(node) is not None:
            return Value()
        owner = self.value(node.value)
        found = self.definitions.members(owner.types, node.attr)
        types, is_computed = frozenset[str](), False
        for each, member in found:
            definition, module = self.definitions.nodes[member], self.definitions.module_of[member]
            if isinstance(definition, ast.AnnAssign):
                types |= self.definitions.types(module, definition.annotation)
            elif decorators(definition) & {"property", "cached_property"} and isinstance(definition, Function):
                is_computed = True
                types |= self.definitions.types(module, definition.returns, frozenset({each}))
                if owner.is_followed:
                    self.walk.enter(member, ["self"], frozenset({each}))
        is_followed = owner.is_followed and is_computed
        is_part = owner.is_part or owner.is_followed and not is_computed
        return Value(is_followed, types if found else owner.types, is_part)

    def resolve_name(self, node: ast.expr) -> str | None:
        """Return the dotted name of the module, class or function that an expression names."""
        first = node
        while isinstance(first, ast.Attribute):
            first = first.value
        if not isinstance(first, ast.Name) or first.id in self.values:
            return None
        return self.definitions.resolve(self.module, node)

    def call(self, node: ast.Call) -> Value:
        """Read a call: its callee, its arguments, then the function that it enters."""
        receiver, callees = self.callees(node.func)
        arguments = list(self.arguments(node))
        is_computed = any(each.value.is_followed or each.value.is_part for each in arguments)
        made = Value(receiver.is_followed or is_computed, is_part=receiver.is_part)
        for of_self, name in callees:
            made |= Value(False, self.enter(name, of_self, receiver, arguments))
        if not callees:  # of numpy or Python, or of a value
            for name in filter(None, map(self.resolve_name, node.args)):
                if name not in self.definitions.nodes:
                    continue
                is_partial = isinstance(node.func, ast.Name) and node.func.id == "partial"
                given = [
                    Argument(int(each.key) - 1, each.value) if isinstance(each.key, int) else each for each in arguments
                ]
                made |= Value(
                    False, self.enter(name, frozenset(), Value(), given if is_partial else [Argument(0, made)])
                )
            made |= Value(False, receiver.types)
            for each in arguments:
                made |= Value(False, each.value.types)
        return made

    def callees(self, node: ast.expr) -> tuple[Value, list[tuple[Types, str]]]:
        """Return the value that a called method belongs to, and each function or class that the call may mean."""
        name = self.resolve_name(node)
        if name is not None:
            owner = name.rpartition(".")[0]
            is_method = owner in self.definitions.nodes
            return Value(), [(frozenset({owner} if is_method else ()), name)] if name in self.definitions.nodes else []
        if not isinstance(node, ast.Attribute):
            return self.value(node), []
        receiver = self.value(node.value)
        found = self.definitions.members(receiver.types, node.attr)
        methods = [(frozenset({o}), name) for o, name in found if isinstance(self.definitions.nodes[name], Function)]
        return (receiver, methods) if methods else (self.value(node) if found else receiver, [])

    def arguments(self, node: ast.Call) -> Iterator[Argument]:
        for i, each in enumerate(node.args):
            yield (
                Argument("*", self.value(each.value))
                if isinstance(each, ast.Starred)
                else Argument(i, self.value(each))
            )
        for keyword in node.keywords:
            yield Argument(keyword.arg or "**", self.value(keyword.value))

    def enter(self, name: str, of_self: Types, receiver: Value, arguments: list[Argument]) -> Types:
        """Enter a function, or what constructs a class, and return the classes of the result."""
        definition = self.definitions.nodes[name]
        if isinstance(definition, ast.ClassDef):
            for constructor in CONSTRUCTORS:
                if (member := self.definitions.member(name, constructor)) is not None:
                    self.enter(
                        member, frozenset({name}), Value(any(each.value.is_followed for each in arguments)), arguments
                    )
            return frozenset({name})
        if not isinstance(definition, Function):
            return frozenset()
        names = _receiving_parameters(definition, arguments, receiver, bool(of_self))
        if names:
            self.walk.enter(name, names, of_self)
        return self.definitions.types(self.definitions.module_of[name], definition.returns, of_self)


def _parameters(function: Function) -> list[ast.arg]:
    its = function.args
    others = [each for each in (its.vararg, its.kwarg) if each is not None]
    return [*its.posonlyargs, *its.args, *its.kwonlyargs, *others]


def _receiving_parameters(function: Function, arguments: list[Argument], receiver: Value, is_method: bool) -> set[str]:
    """Return the parameters that receive followed values."""
    its = function.args
    positional = [each.arg for each in (*its.posonlyargs, *its.args)]
    found = set[str]()
    if is_method and positional and "staticmethod" not in decorators(function):
        found |= {positional[0]} if receiver.is_followed else set()
        positional = positional[1:]
    by_keyword = {*positional, *(each.arg for each in its.kwonlyargs)}
    for each in arguments:
        if not each.value.is_followed:
            continue
        if isinstance(each.key, int):
            found |= set(positional[each.key : each.key + 1]) or {its.vararg.arg if its.vararg else ""}
        elif each.key in by_keyword:
            found.add(each.key)
        elif each.key == "*":
            found |= {its.vararg.arg} if its.vararg else set(positional)
        else:
            found |= {its.kwarg.arg} if its.kwarg else by_keyword
    return found - {""}
