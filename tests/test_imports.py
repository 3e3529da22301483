"""Who may import whom, and that no modules import each other in a circle.

Every import counts: those inside functions, and those for types alone (`TYPE_CHECKING`), too, as two files that cannot
be read apart are in a circle whenever they load each other. So does what is handed to a command as "module:app". That
a module's package is loaded before it does not count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import methods
import tasks
from methods.core import Method

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {  # folder -> the folders, or modules, of ours that its modules may import
    "core": {"core"},
    "methods": {"core", "methods"},
    "tasks": {"core", "tasks", "methods.core"},  # methods.core: what a method may know of a task
    "harness": {"core", "methods", "tasks", "harness"},
    "analysis": {"core", "analysis"},
}
THIRD_PARTY = {
    "core": {"fsspec", "pydantic", "tenacity", "typing_extensions", "typer"}
}  # folder -> all that it may import of others
EXCEPTIONS = {  # (module, what it imports) -> why
    ("tasks.judges.reward_model", "methods.language.models"): "a judge reads a reward model as methods do",
    ("tasks.judges.reward_model", "methods.language.tokens"): "a judge reads a reward model as methods do",
}
NAMED = {  # (module of the harness, name of a method or suite that its code holds) -> why
    ("harness.backbones", "sft"): "a part of the state, which several methods share",
    ("harness.provenance", "ogbench"): "a package, whose version is recorded",
}
HEAVY = {"jax", "flax", "optax", "torch", "transformers", "datasets", "stable_baselines3"}
COMMAND = re.compile(r"([a-z_0-9.]+):app")  # what `core.command.main` loads


@cache
def modules() -> Mapping[str, Path]:
    """Every module of ours, and its file."""
    found = {}
    for path in (path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST, known: frozenset[str]) -> Iterator[str]:
    """What a module's syntax tree imports: modules of `known`, and of others their top-level packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [match[1] for match in [COMMAND.fullmatch(node.value)] if match]
        else:
            continue
        yield from (name if name in known else name.partition(".")[0] for name in names)


@cache
def imports() -> Mapping[str, frozenset[str]]:
    """Of every module of ours, what it imports."""
    known = frozenset(modules())
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules().items()}
    return {name: frozenset(imported(tree, known)) - {name} for name, tree in trees.items()}


def circles(graph: Mapping[str, frozenset[str]]) -> set[frozenset[str]]:
    """The sets of nodes each of which reaches all the others."""
    reach = {node: _reached(graph, node) for node in graph}
    groups = {frozenset(other for other in reach[node] if node in reach.get(other, ())) for node in graph}
    return {group for group in groups if len(group) > 1}


def _reached(graph: Mapping[str, frozenset[str]], start: str) -> set[str]:
    found, left = set[str](), [start]
    while left:
        further = graph.get(left.pop(), frozenset()) - found
        found |= further
        left += further
    return found


def at_once(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The imports that are carried out as soon as a module is: none in functions, none for types alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) not in ("TYPE_CHECKING", "__name__ == '__main__'"):
            yield from at_once([*node.body, *node.orelse])
        elif isinstance(node, ast.Try | ast.With):
            yield from at_once(node.body)


def named(path: Path, names: frozenset[str]) -> set[str]:
    """Which of the names a file's code holds, as a string of its own or as an attribute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return names & (strings | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)})


def test_the_graph_sees_every_kind_of_import() -> None:
    source = (
        "import core.files\nfrom tasks import sizes, select\nimport numpy.linalg\n"
        "def late():\n    from methods.core import BadInput\nif TYPE_CHECKING:\n    import harness.run as run\n"
        "main('tasks.check:app')\n"
    )
    known = frozenset({"core.files", "tasks", "tasks.sizes", "tasks.check", "methods.core", "harness.run"})
    assert set(imported(ast.parse(source), known)) == known | {"numpy"}


def test_circles_are_found_however_long() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"g"}, "g": {"f"}}
    found = circles({node: frozenset(others) for node, others in graph.items()})
    assert found == {frozenset("abc"), frozenset("fg")}


def test_folders_import_what_they_may() -> None:
    found = set()
    for name, others in imports().items():
        allowed = MAY_IMPORT[name.partition(".")[0]]
        for other in others & set(modules()):
            if other not in allowed and other.partition(".")[0] not in allowed:
                found.add((name, other))
    assert found == set(EXCEPTIONS)


@pytest.mark.parametrize("folder", THIRD_PARTY)
def test_the_ground_floor_imports_little_of_others(folder: str) -> None:
    ours = {name for name in imports() if name.partition(".")[0] == folder}
    others = {other for name in ours for other in imports()[name] - set(modules())}
    assert others - set(sys.stdlib_module_names) == THIRD_PARTY[folder]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(imports()) == set()


def test_the_harness_names_no_method_and_no_suite() -> None:
    names = frozenset(methods.REGISTRY) | frozenset(methods.LANGUAGE) | frozenset(tasks.SUITES)
    ours = {name: path for name, path in modules().items() if name.startswith("harness.")}
    assert {(name, one) for name, path in ours.items() for one in named(path, names)} == set(NAMED)


def test_tasks_and_what_simulates_load_nothing_heavy() -> None:
    """Listing tasks, and a process that simulates, must not wait for JAX or torch."""
    known, graph = frozenset(modules()), {}
    for name, path in modules().items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        graph[name] = frozenset(one for node in at_once(body) for one in imported(node, known))
    light = [name for name in known if name.partition(".")[0] in ("core", "tasks")] + [
        "harness.run",
        "harness.run_command",
    ]
    assert {(name, heavy) for name in light for heavy in _reached(graph, name) & HEAVY} == set()
    assert _reached(graph, "methods.vgf") >= {"jax"} and _reached(graph, "methods.language.vgf") >= {"torch"}


def test_a_name_of_methods_is_defined_once() -> None:
    """What a module of `methods/` defines (language's apart, a family of its own) no other defines, too; and between a
    method's class and `Method` stands one class at most."""
    places: dict[str, list[str]] = {}
    for path in (ROOT / "methods").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            names += [one.id for one in getattr(node, "targets", []) if isinstance(one, ast.Name)]
            for name in names:
                places.setdefault(name, []).append(path.name)
    assert {name: found for name, found in places.items() if len(found) > 1 and name != "__all__"} == {}
    for name in methods.REGISTRY:
        between = [kind for kind in methods.get(name).__mro__[1:] if issubclass(kind, Method) and kind is not Method]
        assert len(between) <= 1, name
