"""Which code and which packages made a result."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "ogbench", "mujoco",
             "torch", "transformers", "tokenizers", "safetensors", "peft", "trl")  # fmt: skip
_LOOPS = ("harness/train.py", "harness/online.py", "harness/replay.py", "harness/language.py", "harness/backbones.py")
"""What draws batches and keys for every method."""


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that results depend on: of those that are imported, what was imported."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = _version(package)
    return found


def _version(package: str) -> str:
    """Of the installed package; of another copy that hides it (a folder on PYTHONPATH), what that says of itself."""
    installed = importlib.metadata.distribution(package)
    module = sys.modules.get(package)
    if module and module.__file__ and not Path(module.__file__).is_relative_to(Path(str(installed.locate_file("")))):
        return f"{getattr(module, '__version__', 'unknown')} (not the installed {installed.version})"
    return installed.version


@cache
def git_state(folder: Path = ROOT) -> dict[str, Any]:
    """Commit of the code in `folder` and whether it was changed since; nulls where that is no checkout of its own, such
    as a site-packages inside another project's repository."""
    # a hook's variables speak of the repository that was committed to
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, check=True)
        return os.fsdecode(done.stdout).removesuffix("\n")

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return {"sha": None, "dirty": None}
        git("ls-files", "--error-unmatch", "harness/provenance.py")
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"sha": None, "dirty": None}


# ---- digests of source files ----


def code_of(method: type) -> dict[str, str]:
    """Digest of every source file that a method's training reaches, by its path ("methods/vgf.py"): its classes'
    modules, what these import of `methods`, and the harness's loops."""
    modules = {base.__module__ for base in method.__mro__}
    todo = [file for name in modules if (file := _file(name))]
    reached: dict[str, str] = {}
    while todo:
        file = todo.pop()
        if file not in reached:
            reached[file] = _digest(file)
            todo += _imports(file)
    reached |= {file: _digest(file) for file in _LOOPS}
    return dict(sorted(reached.items()))


def changed(code: Mapping[str, str]) -> list[str]:
    """The files whose code is no longer as it was then."""
    return [file for file, digest in code.items() if _digest(file) != digest]


@cache
def _digest(file: str) -> str:
    """Sixteen hexadecimal digits of a file's syntax, without comments and docstrings; "" where it is gone."""
    tree = _tree(file)
    return hashlib.sha256(repr(_spelled(tree)).encode("utf-8", "replace")).hexdigest()[:16] if tree else ""


@cache
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse((ROOT / file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _spelled(node: Any) -> Any:
    """The tree as plain values, alike in every version of Python: what is empty is left out."""
    if isinstance(node, list):
        return [_spelled(one) for one in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    if (
        isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    ):
        fields["body"] = node.body[1:]
    return type(node).__name__, [(name, _spelled(value)) for name, value in fields.items()]


def _imports(file: str) -> Iterator[str]:
    """Files of `methods` that a file imports, wherever in it."""
    tree = _tree(file)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names: Iterable[str] = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from filter(None, map(_file, names))


@cache
def _file(module: str) -> str | None:
    """The path of a module of `methods` in this checkout; of a package, its `__init__.py`. The registry is none: a
    method that is added changes no other."""
    if not module.startswith("methods."):
        return None
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (ROOT / name).is_file()), None)
