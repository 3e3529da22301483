"""`--adopt PATH`: an artefact that is what the plan would make is used, and any other is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.command import SMALL, TINY, held, invoke, refused

BC = (*TINY, "--methods", "bc", "--seeds", "1")
VGF = (*SMALL, "--methods", "vgf")


def artifact(results: Path, stage: str, seed: int = 0) -> Path:
    """The folder of the results' only lane of that stage and seed."""
    (folder,) = (path for path in (results / "artifacts").iterdir()
                 if [note(path)["identity"][key] for key in ("stage", "seed")] == [stage, seed])  # fmt: skip
    return folder


def note(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "stage.json").read_text())


def seed_folder(results: Path, method: str, seed: int = 0) -> Path:
    (folder,) = (results / "runs" / "toy" / "toy" / method).glob(f"*/seed-{seed}")
    return folder


def origins(results: Path, method: str, seed: int = 0) -> list[tuple[str, str]]:
    content = json.loads((seed_folder(results, method, seed) / "run.json").read_text())
    assert content["status"] == "finished"
    return [(stage["name"], stage["origin"]) for stage in content["stages"]]


def changed(folder: Path, copy: Path, **changes: Any) -> Path:
    """A copy of the artefact whose `stage.json` has other values; `identity` is updated, not replaced."""
    shutil.copytree(folder, copy)
    content = note(copy)
    identity = {**content["identity"], **changes.pop("identity", {})}
    (copy / "stage.json").write_text(json.dumps({**content, **changes, "identity": identity}))
    return copy


def files(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def offers(*folders: Path) -> list[str]:
    return [argument for folder in folders for argument in ("--adopt", str(folder))]


# ---- taken ----


def test_what_matches_is_used_and_nothing_is_retrained(reference: Path, tmp_path: Path) -> None:
    """By the very run that made it, which in another folder of results has the same name."""
    given = [artifact(reference, stage, seed) for stage in ("behavior", "critic") for seed in (0, 1)]
    before = [files(folder) for folder in given]
    done = invoke(*VGF, "--results", str(tmp_path), *offers(*given))
    assert done.exit_code == 0, done.stderr
    for folder in given:
        taken, name = tmp_path / "artifacts" / folder.name, f"{note(folder)['step']}.safetensors"
        assert files(taken / "state") == {name: files(folder / "state")[name]} and not (taken / "train.csv").exists()
        digests = {name: note(folder)["files"][name]}
        assert note(taken) == {**note(folder), "files": digests, "adopted_from": str(folder)}
    for seed in (0, 1):
        assert origins(tmp_path, "vgf", seed) == [("behavior", "adopted"), ("critic", "adopted")]
        ours, theirs = seed_folder(tmp_path, "vgf", seed), seed_folder(reference, "vgf", seed)
        assert not (ours / "train.csv").exists()
        header, *rows = (ours / "episodes.csv").read_text().splitlines()
        assert [header, *rows] == [line for line in (theirs / "episodes.csv").read_text().splitlines()
                                   if line == header or ",final," in line]  # fmt: skip
        with np.load(ours / "candidates.npz") as one, np.load(theirs / "candidates.npz") as two:
            np.testing.assert_array_equal(one["candidates"], two["candidates"])
    assert [files(folder) for folder in given] == before


@pytest.mark.slow
def test_what_it_is_needed_for_is_trained_on_it(reference: Path, tmp_path: Path) -> None:
    """The same critic as if the behaviour had been trained here, as that of the other seed is."""
    given = offers(artifact(reference, "behavior"))
    done = invoke(*SMALL, "--methods", "vgf,bc", "--results", str(tmp_path), *given)
    assert done.exit_code == 0, done.stderr
    assert origins(tmp_path, "vgf") == [("behavior", "adopted"), ("critic", "trained")]
    assert origins(tmp_path, "bc") == [("behavior", "adopted")]
    assert origins(tmp_path, "vgf", 1)[0][1] in ("trained", "shared")
    ours, theirs = (seed_folder(results, "vgf") / "train.csv" for results in (tmp_path, reference))
    assert ours.read_text() == theirs.read_text()


def test_it_takes_the_place_of_an_unfinished_one_only(reference: Path, tmp_path: Path) -> None:
    offered, results = artifact(reference, "behavior"), tmp_path / "results"
    own = results / "artifacts" / offered.name
    changed(offered, own, finished=False, trained_by="an earlier attempt")
    assert invoke(*BC, "--results", str(results), *offers(offered)).exit_code == 0
    assert origins(results, "bc") == [("behavior", "adopted")] and note(own)["finished"]
    shutil.rmtree(results)
    changed(offered, own, trained_by="an earlier run")
    assert invoke(*BC, "--results", str(results), *offers(offered)).exit_code == 0
    assert origins(results, "bc") == [("behavior", "shared")] and note(own)["trained_by"] == "an earlier run"


def test_fresh_redoes_all_but_what_is_offered(reference: Path, tmp_path: Path) -> None:
    """What stands there is replaced; offered where it stands, it stays."""
    offered, results = artifact(reference, "behavior"), tmp_path / "results"
    own = changed(offered, results / "artifacts" / offered.name, trained_by="an earlier run")
    again = (*BC, "--results", str(results), "--fresh")
    assert invoke(*again, *offers(offered)).exit_code == 0
    assert origins(results, "bc") == [("behavior", "adopted")] and note(own)["trained_by"] != "an earlier run"
    before = files(own / "state")
    assert invoke(*again, *offers(own)).exit_code == 0
    assert origins(results, "bc") == [("behavior", "adopted")] and files(own / "state") == before


# ---- refused ----


@pytest.mark.parametrize(
    "stage, other, line",
    [
        ("behavior", "--set behavior_steps=30", "steps is 20 there and 30 in the plan (stage behavior)"),
        ("behavior", "--seeds 1-2", "seed is 0 there and 1 in the plan (stage behavior)"),
        ("behavior", "--set hidden_dims=9", "config.hidden_dims is [8] there and [9] in the plan (stage behavior)"),
        ("behavior", "--seeds 7-7 --set hidden_dims=9",
         "config.hidden_dims is [8] there and [9] in the plan (stage behavior); also different: seed"),
        ("behavior", "--set behavior=joint --set bank=0", "it is stage 'behavior' of toy/toy, which the plan does not"),
        ("critic", "--set vgf.step_size=0.7", "config.step_size is 0.05 there and 0.7 in the plan (stage critic)"),
        ("critic", "--set vgf.critic=iql", "it is stage 'critic' of toy/toy, which the plan does not have"),
        ("critic", "--suite ogbench --tasks cube-single-play-singletask-v0", "it is stage 'critic' of toy/toy, which"),
    ],
)  # fmt: skip
def test_what_differs_is_named_and_nothing_written(
    stage: str, other: str, line: str, reference: Path, tmp_path: Path
) -> None:
    offered, results = artifact(reference, stage), tmp_path / "results"
    arguments = (*VGF, "--results", str(results), *offers(offered), *other.split())
    assert refused(*arguments).startswith(f"--adopt {offered}: {line}")
    assert refused(*arguments, "--dry-run").startswith(f"--adopt {offered}: {line}")
    assert not results.exists()


def test_data_are_compared_once_they_are_there(reference: Path, tmp_path: Path) -> None:
    """As is what was made from them; and of two artefacts neither is taken if one does not match."""
    behavior, results = artifact(reference, "behavior"), tmp_path / "results"
    other = changed(behavior, tmp_path / "other", identity={"data": "digest"})
    line = refused(*VGF, "--results", str(results), *offers(behavior, other))
    assert line.startswith(f"--adopt {other}: data is 'digest' there and '{note(behavior)['identity']['data']}' in the")
    critic = artifact(reference, "critic")
    line = refused(*VGF, "--results", str(results), *offers(critic), "--set", "behavior_steps=30")
    assert line.startswith(f"--adopt {critic}: reads.behavior is '{behavior.name}' there and '")
    assert not results.exists()


def test_what_is_no_finished_artefact(reference: Path, tmp_path: Path) -> None:
    behavior, results = artifact(reference, "behavior"), tmp_path / "results"
    unfinished = changed(behavior, tmp_path / "unfinished", finished=False, step=10)
    bare = changed(behavior, tmp_path / "bare")
    shutil.rmtree(bare / "state")
    old = changed(behavior, tmp_path / "old", identity={"seeds": [0, 1]})
    damaged = changed(behavior, tmp_path / "damaged")
    state = damaged / "state" / "20.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    garbled, other, file = (tmp_path / name for name in ("garbled", "other", "file"))
    for folder, text in ((garbled, "{"), (other, "[1]")):
        folder.mkdir()
        (folder / "stage.json").write_text(text)
    file.touch()
    nothing, run = "holds no artefact ({})", seed_folder(reference, "vgf")
    for path, complaint in (
        (unfinished, "its stage is unfinished (step 10)"),
        (bare, f"{bare}/state/20.safetensors is missing; use --fresh to train anew"),
        (old, "all seeds are in one there, as older versions stored them"),
        (damaged, f"{state} is damaged (its SHA-256 is not the stored one); use --fresh to train anew"),
        (garbled, nothing.format(f"{garbled}/stage.json:1: Expecting property name enclosed in double quotes")),
        (other, nothing.format(f"{other}/stage.json: Input should be a valid dictionary (it is [1])")),
        (file, nothing.format(f"Not a directory: {file}/stage.json")),
        *((path, nothing.format("no stage.json")) for path in (tmp_path, tmp_path / "no", run)),
    ):  # fmt: skip
        assert refused(*BC, "--results", str(results), *offers(path)) == f"--adopt {path}: {complaint}"
    assert not results.exists()


def test_where_another_process_writes(reference: Path, tmp_path: Path) -> None:
    offered = artifact(reference, "behavior")
    folder = tmp_path / "artifacts" / offered.name
    with held(folder) as other:
        line = refused(*BC, "--results", str(tmp_path), *offers(offered))
    assert line == f"--adopt {offered}: {folder} is being written by process {other.pid}"
    assert not (folder / "state").exists()
