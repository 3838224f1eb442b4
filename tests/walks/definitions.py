"""The meaning of names in the sources: the definition of a name, the classes that an annotation names, their
members.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard

from tests.packages import nodes

Function = ast.FunctionDef | ast.AsyncFunctionDef
Types = frozenset[str]  # dotted names of classes of fewstep
ALIASES = ast.BinOp | ast.Subscript | ast.Name | ast.Attribute  # the forms of a type alias


class Definitions:
    """The functions, classes, fields and constants of all modules, by their dotted names."""

    def __init__(self, modules: Mapping[str, ast.Module]) -> None:
        self.nodes: dict[str, ast.stmt] = {}
        self.module_of: dict[str, str] = {}
        self._modules = modules
        self._imports = {name: dict(_imports(tree)) for name, tree in modules.items()}
        self._types: dict[tuple[str, int, Types], Types] = {}
        for name, tree in modules.items():
            self._add(name, name, tree.body)

    def _add(self, owner: str, module: str, body: Iterable[ast.stmt]) -> None:
        for node in body:
            for name in _names(node):
                self.nodes[f"{owner}.{name}"], self.module_of[f"{owner}.{name}"] = node, module
            if isinstance(node, ast.ClassDef):
                self._add(f"{owner}.{node.name}", module, node.body)
            elif isinstance(node, ast.If):
                self._add(owner, module, node.body)

    def resolve(self, module: str, expression: ast.expr) -> str | None:
        """Return the dotted name of the definition or module that a name, or an attribute of one, means in a module."""
        if isinstance(expression, ast.Name):
            full = f"{module}.{expression.id}"
            return full if full in self.nodes else self._resolve_import(module, expression.id)
        if isinstance(expression, ast.Attribute) and (owner := self.resolve(module, expression.value)) is not None:
            full = f"{owner}.{expression.attr}"
            if full in self.nodes or full in self._modules:
                return full
            return self.member(owner, expression.attr) or self._resolve_import(owner, expression.attr)
        return None

    def _resolve_import(self, module: str, name: str) -> str | None:
        target = self._imports.get(module, {}).get(name)
        if target is None or target in self.nodes or target in self._modules:
            return target
        owner, _, original = target.rpartition(".")
        return self._resolve_import(owner, original) if (owner, original) != (module, name) else None

    def types(self, module: str, annotation: ast.expr | None, of_self: Types = frozenset()) -> Types:
        """Return the classes that an annotation names. `of_self`: the classes that `Self` means."""
        key = (module, id(annotation), of_self)
        if key not in self._types:
            self._types[key] = frozenset()  # of an alias that names itself
            self._types[key] = frozenset(self._find_types(module, annotation, of_self))
        return self._types[key]

    def _find_types(self, module: str, annotation: ast.expr | None, of_self: Types) -> Iterator[str]:
        for node in () if annotation is None else ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isprintable():
                try:
                    text = ast.parse(node.value, mode="eval").body
                except SyntaxError:  # of a literal
                    continue
                yield from self._find_types(module, text, of_self)
            elif isinstance(node, ast.Name) and node.id == "Self":
                yield from of_self
            elif isinstance(node, ast.Name | ast.Attribute) and (name := self.resolve(module, node)) in self.nodes:
                assert name is not None
                definition = self.nodes[name]
                if isinstance(definition, ast.ClassDef):
                    yield name
                elif isinstance(definition, ast.Assign | ast.AnnAssign) and isinstance(definition.value, ALIASES):
                    yield from self.types(self.module_of[name], definition.value)

    def member(self, owner: str, attribute: str) -> str | None:
        """Return the dotted name of a member of a class, or of the first base class that has it."""
        if f"{owner}.{attribute}" in self.nodes:
            return f"{owner}.{attribute}"
        node = self.nodes.get(owner)
        bases = (self.resolve(self.module_of[owner], base) for base in node.bases) if _is_class(node) else ()
        found = (self.member(base, attribute) for base in bases if base in self.nodes and base != owner)
        return next(filter(None, found), None)

    def members(self, owners: Types, attribute: str) -> list[tuple[str, str]]:
        """Return each class that has a member of this name, with the member."""
        found = ((owner, self.member(owner, attribute)) for owner in sorted(owners))
        return [(owner, member) for owner, member in found if member is not None]


def decorators(definition: ast.stmt) -> set[str]:
    """Return the decorators of a function, as text."""
    return {ast.unparse(each) for each in definition.decorator_list} if isinstance(definition, Function) else set()


def _is_class(node: ast.stmt | None) -> TypeGuard[ast.ClassDef]:
    return isinstance(node, ast.ClassDef)


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, Function | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (each.id for each in targets if isinstance(each, ast.Name))


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield each imported name and what it means, also of imports inside functions."""
    for node in nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.partition(".")[0], alias.name) for alias in node.names)
