"""Whose commit and which code a record names: our own checkout's, and the files that a method reaches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import methods
from harness import provenance

HERE = provenance.ROOT
GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@x")


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hook the tests run in; and nothing remembered."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


def repository(folder: Path, *tracked: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-q", "--allow-empty", "-m", "x")):
        subprocess.run([*GIT, *arguments], cwd=folder, check=True)
    return folder


def test_our_own_checkout_counts(tmp_path: Path, git: None) -> None:
    ours = repository(tmp_path / "br [x]\n", "harness/provenance.py")
    state = provenance.git_state(ours)
    assert len(state["sha"]) == 40 and state["dirty"] is False
    provenance.git_state.cache_clear()
    (ours / "harness" / "provenance.py").write_text("x = 1")
    assert provenance.git_state(ours) == {"sha": state["sha"], "dirty": True}


def test_a_repository_around_site_packages_does_not(tmp_path: Path, git: None) -> None:
    """Nor one in our folder that does not know us."""
    around = repository(tmp_path / "project", "their.py")
    packages = around / "venv" / "site-packages"
    (packages / "harness").mkdir(parents=True)
    (packages / "harness" / "provenance.py").touch()
    nothing = {"sha": None, "dirty": None}
    assert provenance.git_state(packages) == nothing and provenance.git_state(tmp_path) == nothing
    foreign = repository(tmp_path / "foreign", "their.py")
    (foreign / "harness").mkdir()
    (foreign / "harness" / "provenance.py").touch()
    assert provenance.git_state(foreign) == nothing


def test_a_hooks_variables_name_no_other_repository(tmp_path: Path, git: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = repository(tmp_path / "ours", "harness/provenance.py")
    expected = provenance.git_state(ours)
    provenance.git_state.cache_clear()
    monkeypatch.setenv("GIT_DIR", str(repository(tmp_path / "other") / ".git"))
    assert provenance.git_state(ours) == expected


def test_versions_are_those_of_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy on the path hides the installed package."""
    module = types.ModuleType("optax")
    module.__file__, module.__version__ = str(tmp_path / "optax" / "__init__.py"), "9.9"  # type: ignore[attr-defined]
    before = provenance.versions()
    assert before["python"] == ".".join(map(str, sys.version_info[:3])) and "jax" in before
    provenance.versions.cache_clear()
    monkeypatch.setitem(sys.modules, "optax", module)
    assert provenance.versions()["optax"] == f"9.9 (not the installed {before['optax']})"
    provenance.versions.cache_clear()


# ---- code ----


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code whose digests are taken in place of this one's."""
    for name in ("methods", "harness"):
        shutil.copytree(HERE / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    forget()
    return tmp_path


def forget() -> None:
    provenance._digest.cache_clear()
    provenance._file.cache_clear()


@pytest.fixture(autouse=True)
def forgotten() -> object:
    yield
    forget()
    provenance.git_state.cache_clear()


def test_code_is_what_a_method_reaches() -> None:
    vgf, bc = (provenance.code_of(methods.get(name)) for name in ("vgf", "bc"))
    assert {"methods/vgf.py", "methods/particles.py", "methods/behavior.py", "harness/train.py"} <= vgf.keys()
    assert "methods/bc.py" in bc and not {"methods/vgf.py", "methods/iql.py", "methods/__init__.py"} & bc.keys()
    assert not provenance.changed(vgf) and provenance.difference({"code": vgf}) is None


def test_code_is_what_a_language_method_reaches() -> None:
    pytest.importorskip("torch")
    ppo = provenance.code_of(methods.get("ppo", "language"))
    assert {"methods/language/ppo.py", "methods/language/sft.py", "harness/language.py"} <= ppo.keys()
    assert not {"harness/train.py", "methods/vgf.py"} & ppo.keys()


def test_words_about_code_change_nothing_and_code_does(root: Path) -> None:
    code = provenance.code_of(methods.get("bc"))
    file = root / "methods" / "behavior.py"
    text = file.read_text()
    file.write_text("# a comment\n" + text.replace('"""', '"""Other words: ', 1) + '\n"""A string alone."""\n\n\n')
    forget()
    assert provenance.changed(code) == []
    file.write_text(text + "\nMORE = 1\n")
    forget()
    assert provenance.changed(code) == ["methods/behavior.py"]
    assert provenance.difference({"code": code}) == "made by other code (methods/behavior.py changed since)"
    one = provenance.code_of(methods.get("bc"))
    file.write_text(text + "\nMORE = 2\n")  # two dirty trees do not look alike
    forget()
    assert provenance.changed(one) == ["methods/behavior.py"]
    file.unlink()
    forget()
    assert provenance.changed(code) == ["methods/behavior.py"]


SPELLINGS = ("x = 1", "x = -1", "x = '1'", "x = 1.0", "x = 1j", "x: int = 1", "def f(x=1): pass", "x = None",
             "x = [[]]", "x = []", "x = y.z", "x = y[z]", "del x", "w = 1", "")  # fmt: skip


def test_different_code_has_different_digests(root: Path) -> None:
    found = set()
    for text in SPELLINGS:
        (root / "methods" / "one.py").write_text(text)
        forget()
        found.add(provenance._digest("methods/one.py"))
    assert len(found) == len(SPELLINGS) and all(len(one) == 16 for one in found)


def test_a_record_does_not_choose_what_is_read(root: Path) -> None:
    os.mkfifo(root / "methods" / "pipe.py")
    names = ["/etc/passwd", "../x.py", "methods/../harness/train.py", "methods/pipe.py", "methods/none.py"]
    assert provenance.changed(dict.fromkeys(names, "0")) == names


def test_older_records_know_of_the_commit_alone() -> None:
    state = provenance.git_state()
    assert provenance.difference({"git": state}) is None
    assert provenance.difference({"git": {"sha": "x"}}) == "made by other code (x)"
