"""Which code and which packages made a result."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from core.files import read_plain

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "safetensors", "gymnasium", "ogbench", "mujoco",
             "torch", "transformers", "tokenizers", "peft", "trl")  # fmt: skip
_LOOPS = {"control": ("harness/train.py", "harness/online.py", "harness/replay.py", "harness/evaluate.py",
                      "harness/compiling.py"),
          "language": ("harness/language.py", "harness/language_lane.py", "harness/backbones.py")}  # fmt: skip
"""What draws keys and batches for every method of a family."""
_OURS = re.compile(r"(methods|harness)(/\w+)+\.py")  # a record does not choose what is read


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
    family = "language" if any(file.startswith("methods/language/") for file in reached) else "control"
    reached |= {file: _digest(file) for file in _LOOPS[family]}
    return dict(sorted(reached.items()))


def changed(code: Mapping[str, str]) -> list[str]:
    """The files whose code is no longer as it was then; `code` as `code_of` gave it."""
    return [file for file, digest in code.items() if not _OURS.fullmatch(file) or _digest(file) != digest]


def difference(made: Mapping[str, Any], reached: Collection[str] | None = None) -> str | None:
    """Says how the code that made a record differs from this code, if it does; records without digests know of the
    commit alone. `reached`: the files that the asker reaches, where only these count: what one method shares with
    another does not depend on the other's own files."""
    if code := made.get("code"):
        files = changed({file: one for file, one in code.items() if reached is None or file in reached})
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        return f"made by other code ({', '.join(files[:5])}{more} changed since)" if files else None
    git = made.get("git")
    commit = (git or {}).get("sha") or "of no known commit"
    return None if git == git_state() else f"made by other code ({commit})"


_PARSING = Lock()  # Python 3.11 miscounts how deep it is when two threads parse at once (cpython#106905)


@cache
def _digest(file: str) -> str:
    """Sixteen hexadecimal digits of a file's syntax, without comments and docstrings; "" where it is gone."""
    try:
        with _PARSING:
            tree = ast.parse(read_plain(ROOT / file))
    except (OSError, SyntaxError, ValueError):
        return ""
    return hashlib.sha256(repr(_spelled(tree)).encode("utf-8", "replace")).hexdigest()[:16]


def _spelled(node: Any) -> Any:
    """The tree as plain values, alike in every version of Python: what is empty is left out, as are texts that nobody
    reads, and `ctx`, which follows from the rest."""
    if type(node) is list:
        return [_spelled(one) for one in node if not _bare_text(one)]
    if not isinstance(node, ast.AST):
        return node
    values = ((name, getattr(node, name, None)) for name in node._fields if name != "ctx")
    return [type(node).__name__, *((name, _spelled(value)) for name, value in values if value not in (None, []))]


def _bare_text(node: Any) -> bool:
    """Whether it is a docstring, or a string that stands as a statement elsewhere."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


_IMPORT = re.compile(
    r"""^[ \t]* (?: from [ \t]+ (methods[.\w]*) [ \t]+ import [ \t]+ ( \( [^)]* \) | [^\n#]* )
              | import [ \t]+ ([^\n#]*) )""", re.M | re.X)  # fmt: skip


def _imports(file: str) -> Iterator[str]:
    """Files of `methods` that a file imports, wherever in it."""
    for package, names, modules in _IMPORT.findall((ROOT / file).read_text("utf-8", "replace")):
        words = re.findall(r"[.\w]+", names or modules)
        found = [package, *(f"{package}.{word}" for word in words)] if package else words
        yield from filter(None, map(_file, found))


@cache
def _file(module: str) -> str | None:
    """The path of a module of `methods` in this checkout; of a package, its `__init__.py`. The registry is none: a
    method that is added changes no other."""
    if not module.startswith("methods."):
        return None
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (ROOT / name).is_file()), None)
