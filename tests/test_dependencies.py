"""What our code imports of others is what `pyproject.toml` declares, and the base install needs none of the extras."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from core.extras import EXTRAS, install
from tests.test_imports import ROOT, at_once, modules

PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHIN = {  # rooms that only language suites load -> why they may import an extra's packages at once
    "methods.language": "language methods",
    "harness.language": "their stages",
    "harness.language_lane": "a lane of them",
    "harness.devices": "where they run",
    "harness.vllm_engine": "what else draws their rollouts",
    "harness.backbones": "their models",
    "harness.tensors": "their weights",
    "harness.on_ray": "what a cluster is asked for",
}
BROUGHT = {  # extra -> what it has though no module of ours imports it, and why
    "rlhf": {"accelerate"},  # transformers and trl ask for it
}


def name_of(requirement: str) -> str:
    """ "jax[cuda13]>=0.10" -> "jax", spelled as indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]).lower()


def extras(requirement: str) -> list[str]:
    """ "vgf-bench[rlhf,trl]" -> ["rlhf", "trl"]"""
    found = re.search(r"\[(.*)\]", requirement)
    return found[1].split(",") if found else []


def declared(extra: str) -> set[str]:
    """An extra's distributions, with those of the extras it includes."""
    found = set()
    for one in PROJECT["optional-dependencies"][extra]:
        found |= {name_of(one)} if name_of(one) != PROJECT["name"] else set().union(*map(declared, extras(one)))
    return found


BASE = {name_of(one) for one in PROJECT["dependencies"]}


def third_party(tree: ast.AST) -> Iterator[str]:
    """Top-level packages of others that a syntax tree imports, by a statement or by `import_module("name")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        else:
            continue
        tops = {name.partition(".")[0] for name in names}
        yield from tops - set(sys.stdlib_module_names) - {name.partition(".")[0] for name in modules()}


@cache
def imported() -> Mapping[str, frozenset[str]]:
    """Of every module of ours, which packages of others it imports, at once or later."""
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules().items()}
    return {name: frozenset(third_party(tree)) for name, tree in trees.items()}


def distribution(package: str) -> str:
    """Which distribution has what is imported by this name: the one of that name, where it is declared or none is
    installed."""
    known = BASE | {name for extra in PROJECT["optional-dependencies"] for name in declared(extra)}
    return name_of(package if name_of(package) in known else packages_distributions().get(package, [package])[0])


OPTIONAL = {"hdf5plugin", "vllm"}  # used where they are installed; vLLM pins a torch that is not ours


def test_imports_of_every_kind_are_seen() -> None:
    source = "import os, numpy.linalg\nfrom core.files import x\ndef f():\n    from torch import nn\n"
    source += "    importlib.import_module('mujoco')\n    importlib.import_module(name)\n"
    assert set(third_party(ast.parse(source))) == {"numpy", "torch", "mujoco"}
    assert name_of("Jax[cuda_13]>=0.10,<0.12") == "jax" and name_of("typing_extensions") == "typing-extensions"


def test_what_is_imported_is_declared() -> None:
    for name, packages in imported().items():
        for package in packages - OPTIONAL:
            extra = EXTRAS.get(package)
            assert distribution(package) in (declared(extra) if extra else BASE), f"{name} imports {package}"


def test_what_is_declared_is_imported() -> None:
    needed = {distribution(package) for packages in imported().values() for package in packages - set(EXTRAS)}
    assert needed - OPTIONAL == BASE
    for extra in ("rlhf", "trl", "collect", "ray"):
        named = {name_of(one) for one in PROJECT["optional-dependencies"][extra]} - {PROJECT["name"]}
        used = {distribution(package) for packages in imported().values() for package in packages & set(EXTRAS)}
        assert named - used == BROUGHT.get(extra, set())


def test_the_extra_that_is_named_has_the_package() -> None:
    for package, extra in EXTRAS.items():
        assert distribution(package) in declared(extra)
    assert BASE.isdisjoint(distribution(package) for package in EXTRAS)


def test_only_language_rooms_import_an_extra_at_once() -> None:
    """What all commands load must do without: an import in a function comes when its suite or setting is asked for."""
    found = set()
    for name, path in modules().items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement in at_once(body):
            found |= {name for package in third_party(statement) if package in EXTRAS}
    assert all(any(f"{name}.".startswith(f"{room}.") for room in WITHIN) for name in found), found
    assert {"harness.language", "methods.language.vgf"} <= found


def test_how_an_extra_is_installed_depends_on_where_we_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert install("rlhf") == "pip install -c constraints.txt -e '.[rlhf]'"
    monkeypatch.setattr("core.extras._SOURCE", tmp_path)  # as in site-packages: no pyproject.toml
    assert install("rlhf") == "pip install 'vgf-bench[rlhf]'"
