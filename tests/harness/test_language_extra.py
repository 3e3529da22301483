"""Language suites where the extra `rlhf` is not installed: one line, and whatever needs none of it works."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import methods
from methods.core import BadInput
from methods.language.core import LanguageConfig
from tests.harness.command import ROOT, refused

WITHOUT = """
import sys
sys.modules |= dict.fromkeys(sys.argv.pop(1).split(","))
from typer.testing import CliRunner
from harness.run_command import app
done = CliRunner().invoke(app, sys.argv[1:], catch_exceptions=False)
print(done.stdout, done.stderr)
sys.exit(done.exit_code)
"""


def test_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in methods.NEEDED:
        monkeypatch.setitem(sys.modules, package, None)  # as if there were none
    how = "pip install -c constraints.txt -e '.[rlhf]'"
    for arguments in (("--suite", "tldr-synthetic"), ("--suite", "hh", "--methods", "vgf", "--dry-run"),
                      ("--show-config", "sft", "tldr-synthetic")):  # fmt: skip
        assert refused(*arguments) == f"language methods need torch, transformers, tokenizers: {how}"


def test_what_there_is_can_be_listed_all_the_same() -> None:
    command = [sys.executable, "-c", WITHOUT, "torch,transformers,tokenizers,safetensors", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "  sft          SFT: supervised fine-tuning on references" in done.stdout and "suite hh" in done.stdout


@pytest.mark.parametrize("family", ["control", "language"])
def test_what_is_said_of_a_method_is_the_first_line_of_its_file(family: str) -> None:
    if family == "language":
        pytest.importorskip("torch")
    for name in methods.registry(family):
        module: Any = sys.modules[methods.get(name, family).__module__]
        assert methods.about(name, family) == module.__doc__.splitlines()[0] != ""


def test_packages_of_single_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from methods.language.models import adapted
    from methods.language.trl_backend import TRLSFT

    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(sys.modules, "trl", None)
    assert adapted("a model", 0) == "a model"
    with pytest.raises(BadInput, match=r"^lora_rank=4 needs peft "):
        adapted(object(), 4)
    with pytest.raises(BadInput, match=r"^backend=trl needs trl: pip install "):
        TRLSFT(object(), LanguageConfig(backend="trl"))  # type: ignore[arg-type]
