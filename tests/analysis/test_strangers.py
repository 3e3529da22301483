"""Records that nobody should have written: each spoils its own run, with a note, and nothing else."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import plots, report, stats, tables, verdicts
from analysis.figures.style import plt
from analysis.records.files import RecordError, read_npz
from analysis.records.load import load
from analysis.records.runs import Run
from tests.analysis.command import invoke
from tests.analysis.synthetic import both, write_candidates, write_landscape, write_run
from tests.analysis.synthetic_language import vgf, write_language
from tests.analysis.test_verdicts import sealed

KNOBS = {"L_test": [0, 1]}
ESCAPE = "\x1b[31m"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Two methods beside the one that will be spoilt, `avgf`."""
    for method in ("fql", "vgf", "avgf"):
        knobs = {} if method == "fql" else KNOBS
        write_run(tmp_path, method, knobs=knobs, seeds=2, episodes=4, evaluations=2)
    return tmp_path


def spoilt(root: Path) -> Path:
    return root / "runs/toy/toy/avgf/3f9a12c0ffee"


def left_out(root: Path, *said: str) -> str:
    """The only note, where the other runs are read as ever."""
    found = load(root)
    assert [run.method for run in found.runs] == ["fql", "vgf"] and len(found.episodes) == 2 * 4 * 2 * 3
    (note,) = found.notes
    assert all(one in note for one in said), (said, note)
    assert len(note) < 700 and "\n" not in note and ESCAPE not in note
    return note


def test_every_command_goes_on_without_them(records: Path) -> None:
    for method, change in {
        "a": lambda record: "[" * 100_000, "b": lambda record: json.dumps(record | {"knobs": ["../../x"]}),
        "c": lambda record: json.dumps(record | {"seeds": "01"}), "d": lambda record: "null",
    }.items():  # fmt: skip
        file = write_run(records, method, seeds=2, episodes=4, evaluations=2) / "run.json"
        file.write_text(change(json.loads(file.read_text())))
    table = write_run(records, "e", seeds=2, episodes=4, evaluations=2) / "episodes.csv"
    table.write_text(table.read_text().replace("score\n", "score,\n"))
    for app, *more in ((tables.app,), (tables.app, "--paper", "table3"), (stats.app, "--compare", "vgf,fql")):
        shown = invoke(app, records, *more)
        assert (shown.exit_code == 0 and "5 notes:" in shown.stdout) or "--paper" in more, shown
        assert shown.stdout.count("- left out: ") == 5 and ("vgf" in shown.stdout or "--paper" in more)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "valid dictionary"), ("null", "valid dictionary"), ("3", "valid dictionary"), ("", ":1: Expecting"),
        ("[" * 100_000, "nested too deeply"), ("1" * 5000, "too many digits"), ("\udcff", "invalid start byte"),
        ('{"schema": 1', ":1: Expecting"),
    ],
)  # fmt: skip
def test_a_run_json_that_is_no_record(records: Path, text: str, said: str) -> None:
    (spoilt(records) / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    left_out(records, "left out: ", f"{spoilt(records) / 'run.json'}", said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("seeds", "01234", "seeds: Input should be a valid list"), ("seeds", [0.5], "seeds.0: "),
        ("seeds", [10**30], "seeds.0: "), ("episodes", "4", "episodes: "), ("episodes", True, "episodes: "),
        ("config", [], "config: "), ("stages", {"a": 1}, "stages: "), ("stages", [3], "stages.0: "),
        ("wall_clock_s", {"train": "long"}, "wall_clock_s.train: "), ("dataset", "here", "dataset: "),
        ("dataset", {"transitions": -1}, "dataset.transitions: "), ("status", ["finished"], "status: "),
        ("online", 7, "online: "), ("schema", "1", "schema: "), ("device", 3, "device: "),
        ("knobs", ["../../x"], "knobs.0: cannot be part of a file's name"), ("knobs", ["score"], "called 'score'"),
        ("knobs", ["suite"], "can be called 'suite'"), ("knobs", ["a b"], "can be called 'a b'"),
        ("knobs", ["=cmd"], "knobs.0: begins with ="), ("task", "$x$", "task: holds $"),
        ("suite", f"{ESCAPE}toy", "suite: holds characters that do not print"), ("method", "@sum", "begins with @"),
        ("fingerprint", "..", "fingerprint: "), ("fingerprint", "0a", "its folder says otherwise"),
        ("config", {"a": json.loads("[" * 40 + "]" * 40)}, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind(records: Path, path: str, value: object, said: str) -> None:
    file = spoilt(records) / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {path: value}))
    left_out(records, "left out: ", str(file), said)


def test_a_knob_never_leads_out_of_the_folder(records: Path, tmp_path: Path) -> None:
    """Not by its record, nor where a path is made of it."""
    with pytest.raises(RecordError, match="cannot be part of a file's name"):
        plots.below(tmp_path / "out", "knob-../../x")
    assert plots.below(tmp_path / "out", "toy", "knob-N") == tmp_path / "out" / "toy" / "knob-N"


def test_names_of_folders_cannot_steer_the_terminal(records: Path) -> None:
    (records / "runs" / "toy" / "toy" / f"{ESCAPE}evil" / "a").mkdir(parents=True)
    shown = invoke(tables.app, records)
    assert shown.exit_code == 0 and ESCAPE not in shown.output and r"\x1b[31mevil/a has no run.json" in shown.stdout
    bad = invoke(tables.app, records / f"{ESCAPE}no")
    assert bad.exit_code == 2 and ESCAPE not in bad.stderr and r"no folder" in bad.stderr


Change = Callable[[bytes], bytes]
TABLES: dict[str, tuple[Change, str]] = {
    "a comma after the header": (lambda b: b.replace(b"score\n", b"score,\n"), "after those can be called ''"),
    "a comma after every line": (lambda b: b.replace(b"\n", b",\n"), "no column after those can be called ''"),
    "a column twice": (lambda b: b.replace(b"score\n", b"score,score\n"), ":1: the header is"),
    "a column of ours": (lambda b: b.replace(b"\n", b",1\n").replace(b"score,1", b"score,label"), "called 'label'"),
    "quotes": (lambda b: b.replace(b"seed", b'"seed"'), ":1: the header is"),
    "a long header": (lambda b: b.replace(b"seed,", b"s," + b"x" * 10**6, 1), ":1: the header is"),
    "semicolons": (lambda b: b.replace(b",", b";"), ":1: the header is"),
    "not UTF-8": (lambda b: b"\xff\xfe" + b, ":1: the header is"),
    "too many settings": (lambda b: b[: b.index(b"\n") + 1]
                          + b"".join(b"0,final,1000,%d,0,1,1,1,5\n" % i for i in range(33_000)), "33000 knob settings"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_not_of_the_schema(records: Path, case: str) -> None:
    change, said = TABLES[case]
    file = spoilt(records) / "episodes.csv"
    file.write_bytes(change(file.read_bytes()))
    left_out(records, "left out: ", str(file), said)


@pytest.mark.parametrize("change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")])
def test_a_table_that_an_office_program_saved(records: Path, change: Change) -> None:
    before = load(records).episodes
    file = spoilt(records) / "episodes.csv"
    file.write_bytes(change(file.read_bytes()))
    after = load(records)
    assert after.notes == []
    pd.testing.assert_frame_equal(before, after.episodes)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"0,final,2000,1,9,1e300,1,1,5", "return is '1e300'"), (b"0,final,2000,1,9,1\0,1,1,5", r"return is '1\x00'"),
        (b"-1,final,2000,1,9,1,1,1,5", "seed is '-1'"), (b"0,final,9000000000000000000,1,9,1,1,1,5", "step is '9000"),
        (b'0,final,2000,1,9,"1",1,1,5', "return is '\"1\"'"),
        (b"0,final,2000,1,9,\xff,1,1,5", "return is '\ufffd'"),
        (b"0,final,2000,1,9," + b"1" * 10**6 + b",1,1,5", "return is '1111"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_one(records: Path, row: bytes, said: str) -> None:
    file = spoilt(records) / "episodes.csv"
    file.write_bytes(file.read_bytes() + row + b"\n")
    found = load(records)
    (note,) = found.notes
    assert f"{file}:34: " in note and said in note and "left out" in note and len(note) < 400
    assert np.isfinite(found.episodes["return"]).all() and len(found.runs) == 3


def test_pipes_links_and_folders_in_a_file_s_place(records: Path) -> None:
    import os

    (spoilt(records) / "episodes.csv").unlink()
    os.mkfifo(spoilt(records) / "episodes.csv")  # reading it would wait for ever
    left_out(records, "left out: ", "is not a plain file", "episodes.csv")
    (spoilt(records) / "run.json").unlink()
    (spoilt(records) / "run.json").symlink_to("run.json")
    left_out(records, "run.json")


def lying_npz() -> bytes:
    """An array that says it has 10^12 numbers, and has none."""
    header, file = io.BytesIO(), io.BytesIO()
    shape: dict[str, Any] = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("candidates.npy", header.getvalue())
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", lying_npz(), npz(a=np.array(["x"]))])
def test_an_npz_that_is_none(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(RecordError, match=rf"{path}: "):
        read_npz(path)


@pytest.mark.parametrize("name", ["candidates", "actions", "valid", "L_test"])
@pytest.mark.parametrize("change", [lambda v: v[None], lambda v: v[:1], lambda v: np.full(v.shape, np.nan)])
def test_candidates_and_landscapes_that_do_not_fit(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be drawn is, of the run and of the other."""
    write_landscape(tmp_path)
    for method in ("vgf", "avgf"):
        write_candidates(write_run(tmp_path, method, knobs=KNOBS, episodes=2, evaluations=1), KNOBS)
    path = spoilt(tmp_path) / "candidates.npz"
    whole = dict(np.load(path))
    path.write_bytes(npz(**{**whole, name: change(whole[name])}))
    records = load(tmp_path)
    from analysis.figures import landscape, scaling

    points, notes = landscape.shown(records, "toy", "toy", *both(records)) or (pd.DataFrame(), [])
    moved, remarks = scaling.carried(records)
    assert "vgf" in set(points["panel"]) and "vgf" in set(moved["label"])
    assert np.isfinite(points[["x", "y"]].to_numpy(float)).all()
    if not (name == "valid" and np.isnan(change(whole[name].astype(float))).all()):  # what is not zero is valid
        assert str(path) in " ".join(notes + remarks) or "no MMD of" in " ".join(remarks)


@pytest.fixture
def language(tmp_path: Path) -> Path:
    folder = write_language(
        tmp_path, "vgf", vgf(0.7, 0.5), KNOBS, seeds=2, prompts=4, accuracy={"gold_accuracy": 0.7}
    )  # fmt: skip
    rows = ["seed,L_test,episode,verdict,swap_consistent,cost"]
    rows += [f"{seed},{level},{prompt},win,1,0" for seed in (0, 1) for level in (0, 1) for prompt in range(4)]
    sealed(folder, "j", "\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("verdicts-j.json", lambda b: b"[]", "valid dictionary"),
        ("verdicts-j.json", lambda b: b"[" * 10**5, "too deeply"),
        ("verdicts-j.json", lambda b: b.replace(b"16", b'"16"'), "rows: "),
        ("verdicts-j.csv", lambda b: b.replace(b"cost\n", b"cost,\n"), ":1: the header is"),
        ("verdicts-j.csv", lambda b: b.replace(b"win", b"\x1b[31m", 1), r"'\x1b[31m' is no verdict"),
        ("verdicts-j.csv", lambda b: b"", "No columns"), ("verdicts-j.csv", lambda b: b"\xff" + b, "verdicts-j.csv: "),
    ],
)  # fmt: skip
def test_verdicts_that_are_none(language: Path, name: str, change: Change, said: str) -> None:
    """The scores in the records still count."""
    file = language / name
    file.write_bytes(change(file.read_bytes()))
    shown = invoke(verdicts.app, language.parents[4])
    assert shown.exit_code == 0 and ESCAPE not in shown.output and "recorded" in shown.stdout
    (note,) = [line for line in shown.stdout.splitlines() if line.startswith("- ")]
    assert said in note and "left out" in note and str(language) in note


@pytest.mark.parametrize("line", ["[]", "3", "[" * 10**5, '{"seed": "0"}', '{"seed": 1e400}', '{"seed": -1}'])
def test_responses_that_are_none(language: Path, line: str) -> None:
    (language / "responses.jsonl").write_text(f"{line}\n")
    shown = invoke(verdicts.app, language.parents[4])
    assert shown.exit_code == 2 and "responses.jsonl:1: " in shown.stderr and shown.stderr.count("\n") == 1


def test_a_lone_surrogate_in_a_prompt_is_read(language: Path) -> None:
    file = language / "responses.jsonl"
    file.write_text(file.read_text().replace("post 0", r"post \ud800"))
    (language / "verdicts-j.csv").unlink()
    shown = invoke(verdicts.app, language.parents[4])
    assert shown.exit_code == 0 and "Nothing was left out." in shown.stdout


@pytest.mark.parametrize("about", ["[]", "3", "[" * 10**5, "", '"x"'])
def test_weights_whose_header_is_none(language: Path, about: str) -> None:
    from analysis.figures.language import points

    (path,) = language.parents[4].glob("artifacts/*/state/*/reward-0.safetensors")
    header = json.dumps({"__metadata__": {"about": about}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    of, notes = points(load(language.parents[4]))
    assert len(of) == 2 and of["accuracy"].isna().all() and len(notes) == 1 and str(path) in notes[0]
    path.write_bytes(b"\xff" * 8)
    assert points(load(language.parents[4]))[0]["accuracy"].isna().all()


def test_settings_that_no_figure_can_count_with(tmp_path: Path) -> None:
    from analysis.figures import costs, scaling

    wrong: dict[str, Any] = {"step_size": "wide", "sigma": 0, "n_particles": float("nan"), "kernel": [1]}
    wrong["train_flow_steps"] = 10**30
    run = write_run(tmp_path, "vgf", knobs=KNOBS, episodes=4, evaluations=1, settings=wrong)
    write_candidates(run, KNOBS)
    records = load(tmp_path)
    _, notes = scaling.carried(records)
    assert any("no fitting step_size, kernel, sigma" in note for note in notes)
    assert costs.over_gradients(records, *both(records))["gradients"].tolist() == [0, 3]
    assert scaling.trained(records, *both(records)).empty


def test_cells_that_a_spreadsheet_would_carry_out(tmp_path: Path) -> None:
    """Text is made inert; numbers stay numbers."""
    from analysis.output import csv_text

    frame = pd.DataFrame({
        "word": ["=HYPERLINK(1)", "+1+1", "-2+3", "@a", "vgf", f"{ESCAPE}x", "\t=1", None],
        "text": ["-1.5", "+2", "1e5", "", "a", "b", "c", "d"], "number": np.arange(-4.0, 4.0),
    })  # fmt: skip
    rows = pd.read_csv(io.StringIO(csv_text(frame)))
    assert rows["word"].tolist()[:4] == ["'=HYPERLINK(1)", "'+1+1", "'-2+3", "'@a"]
    assert rows["word"].tolist()[4:6] == ["vgf", r"\x1b[31mx"] and "=1" not in rows["word"].tolist()[6][:2]
    assert rows["text"].tolist()[:3] == ["-1.5", "+2", "1e5"] and rows["number"].tolist() == list(np.arange(-4.0, 4.0))


def test_a_report_on_strangers_records(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(figure: plt.Figure, frame: pd.DataFrame, name: str) -> report.Picture:
        plt.close(figure)
        return report.Picture(name, "", "", 1, 1)

    monkeypatch.setattr(report, "picture", quick)  # drawing to pixels is what takes time
    file = spoilt(records) / "run.json"
    record = json.loads(file.read_text())
    record |= {"error": f"{ESCAPE}red\ud800", "git": {"sha": ["a"], "dirty": "no"}, "versions": {ESCAPE: "1"}}
    record["config"]["note"] = {"value": f"<b>{ESCAPE}", "origin": {"a": 1}}
    file.write_text(json.dumps(record))
    shown = invoke(report.app, records, "--out", records / "report")
    page = (records / "report" / "index.html").read_text()
    assert shown.exit_code == 0 and ESCAPE not in page + shown.output
    assert "&lt;b&gt;" in page and "<b>" not in page and r"\x1b[31mred\ud800" in page


def test_train_csv_that_is_none(records: Path) -> None:
    def run() -> Run:
        return next(run for run in load(records).runs if run.method == "avgf")

    file = spoilt(records) / "train.csv"
    assert list(run().train([])) == ["seed", "step", "critic/loss"] and len(run().train([])) == 2
    file.write_bytes(b"seed,step\n0,1,2,3\n0,1\n\xff,2,3,4,5\n")
    with pytest.raises(RecordError, match=str(file)):
        run().train([])
