"""The real language tasks on small files in the hub's formats: schemas, provenance, and files that are broken."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import tasks
from methods.core import BadInput
from tasks import check, fetch
from tasks.core import choose
from tasks.language import hub
from tasks.language.core import Example, Preference, corpus_hash
from tasks.language.files import files, rows
from tasks.language.hh.suite import HH, held_out
from tasks.language.tldr.suite import SUITE as TLDR_SUITE
from tasks.language.tldr.suite import TLDR

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Rows = Sequence[dict[str, Any]]


def parquet(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def json_lines(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def post(i: int) -> str:
    return f"SUBREDDIT: r/cats\n\nTITLE: cat {i}\n\nPOST: It is on the roof.\nWhat now?\n\nTL;DR:"


def write_tldr(root: Path) -> Path:
    """trl-lib/tldr and trl-lib/tldr-preference, as the hub has them; validation holds CNN/DM articles, too."""
    for split, count in (("train", 6), ("validation", 2), ("test", 3)):
        rows = [{"prompt": post(i), "completion": f" Cat {i} on roof."} for i in range(count)]
        half = len(rows) // 2 + 1
        for shard, some in enumerate((rows[:half], rows[half:]) if split == "train" else (rows,)):
            total = 2 if split == "train" else 1
            parquet(root / "trl-lib" / "tldr" / "data" / f"{split}-{shard:05}-of-{total:05}.parquet", some)
    pairs = [{"prompt": post(i), "chosen": " Roof cat.", "rejected": "Help me ", "more": "x"} for i in range(4)]
    news = {"prompt": "TITLE: Cats\n\nA cat.\n\nTL;DR:", "chosen": "Cat.", "rejected": "Dog.", "more": "x"}
    folder = root / "trl-lib" / "tldr-preference" / "data"
    parquet(folder / "train-00000-of-00001.parquet", pairs)
    parquet(folder / "validation-00000-of-00001.parquet", [news, *pairs[:2], news])
    return root


def dialogue(i: int) -> str:
    return f"\n\nHuman: Question {i}?\n\nAssistant:"


def test_tldr(tmp_path: Path) -> None:
    corpus = TLDR().load(str(write_tldr(tmp_path)))
    assert [len(corpus.examples(split)) for split in TLDR.splits] == [6, 2, 3]
    assert corpus.examples("train")[5] == Example(post(5), " Cat 5 on roof.")  # of the second shard
    assert corpus.preferences("train")[0] == Preference(post(0), " Roof cat.", " Help me")
    assert len(corpus.preferences("validation")) == 2  # no CNN/DM
    about = corpus.provenance
    news = "validation: no Reddit post, which begins with 'SUBREDDIT:'"
    assert about.details["left_out"] == {news: 2} and about.origin == "given"
    assert about.sha256 == corpus_hash(corpus.of_examples, corpus.of_preferences) and len(about.details["files"]) == 6
    name = "trl-lib/tldr/data/test-00000-of-00001.parquet"
    assert about.details["files"][name] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert TLDR().spec.max_prompt_tokens == 448 and TLDR().gold is None and TLDR().judge == "none"
    with pytest.raises(BadInput, match=r"no preferences in a split called 'test'"):
        corpus.preferences("test")


def test_hh_as_the_paper_counts_it(tmp_path: Path) -> None:
    rows = [
        {"prompt": dialogue(i // 2), "response": " Yes.", "chosen": f" Yes {i}.", "rejected": " No."}
        for i in range(400)
    ]
    parquet(tmp_path / "full-hh-rlhf" / "data" / "train-00000-of-00001-8349d0765e6718df.parquet", rows)
    parquet(tmp_path / "full-hh-rlhf" / "data" / "test-00000-of-00001-ec71e9262143a91c.parquet", rows[:6])
    corpus = HH().load(str(tmp_path))
    train, validation = corpus.preferences("train"), corpus.preferences("validation")
    assert len(train) + len(validation) == 400 and 0 < len(validation) < 30
    assert {row.prompt for row in train}.isdisjoint(row.prompt for row in validation)
    assert all(held_out(row.prompt) for row in validation)
    # one example a prompt, with the first of its chosen responses
    assert corpus.examples("test") == [Example(dialogue(i), f" Yes {2 * i}.") for i in range(3)]
    assert HH().spec.max_prompt_tokens == 348


def test_hh_as_anthropic_has_it(tmp_path: Path) -> None:
    for kind, no in (("helpful-base", "Never."), ("harmless-base", "No.")):
        rows = [{"chosen": f"{dialogue(i)} Yes {i}.", "rejected": f"{dialogue(i)} {no}"} for i in range(40)]
        for split, some in (("train", rows), ("test", rows[:3])):
            json_lines(tmp_path / "hh-rlhf" / kind / f"{split}.jsonl.gz", some)
    json_lines(tmp_path / "hh-rlhf" / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"task": "none of ours"}])
    task = choose(HH(), {"source": "hh-rlhf"})
    corpus = task.load(str(tmp_path / "hh-rlhf"))  # the folder itself
    assert len(corpus.preferences("train")) + len(corpus.preferences("validation")) == 80
    assert corpus.preferences("test")[0] == Preference(dialogue(0), " Yes 0.", " No.")
    assert task.data_location(str(tmp_path)) == (str(tmp_path / "hh-rlhf"), True)
    assert task.ready(str(tmp_path)) == tmp_path / "hh-rlhf"
    assert corpus.provenance.sha256 == task.load(str(tmp_path)).provenance.sha256
    with pytest.raises(BadInput, match=r"task\.source=tldr: expected one of full-hh-rlhf, hh-rlhf"):
        choose(HH(), {"source": "tldr"})


@pytest.mark.parametrize(
    ("copied", "twins"),
    [("old", r"data/train-00000-of-00002\.parquet and old/train-00000-of-00002\.parquet"),
     ("data/old", r"data/train-00000-of-00002\.parquet and data/old/train-00000-of-00002\.parquet")],
)  # fmt: skip
@pytest.mark.parametrize("link", [False, True])
def test_a_split_whose_files_lie_there_twice_is_refused(tmp_path: Path, copied: str, twins: str, link: bool) -> None:
    """One beside the other or below it, through links, too."""
    folder = tmp_path / "set"
    rows = [{"prompt": post(i), "completion": f"Cat {i}."} for i in range(4)]
    for number in range(2):
        parquet(folder / "data" / f"train-0000{number}-of-00002.parquet", rows[2 * number : 2 * number + 2])
    assert len(files(folder, "train")) == 2
    place = tmp_path / "disk" if link else folder / copied
    shutil.copytree(folder / "data", place)
    if link:
        (folder / copied).symlink_to(place)
    with pytest.raises(BadInput, match=f"has split 'train' more than once: {twins}|data/old/.* and data/train"):
        files(folder, "train")


def test_a_split_s_folder_may_be_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    parquet(tmp_path / "disk" / "train-00000-of-00001.parquet", [{"prompt": post(0), "completion": "Cat."}])
    folder.mkdir()
    (folder / "data").symlink_to(tmp_path / "disk")
    (folder / "again").symlink_to(folder)
    assert [path.name for path in files(folder, "train")] == ["train-00000-of-00001.parquet"]
    (folder / "test.jsonl").symlink_to("gone")
    with pytest.raises(BadInput, match=r"test\.jsonl is a broken link \(to gone\)"):
        files(folder, "test")


def test_tldr_s_empty_and_twin_responses_are_left_out(tmp_path: Path) -> None:
    root = write_tldr(tmp_path) / "trl-lib"
    rows = [{"prompt": post(0), "completion": " "}, {"prompt": post(1), "completion": "Cat."}]
    parquet(root / "tldr" / "data" / "test-00000-of-00001.parquet", rows)
    pairs = [{"prompt": post(0), "chosen": "Cat.", "rejected": other} for other in ("Cat. ", "", "Dog.")]
    parquet(root / "tldr-preference" / "data" / "train-00000-of-00001.parquet", pairs)
    corpus = TLDR().load(str(tmp_path))
    assert corpus.examples("test") == [Example(post(1), " Cat.")]
    assert corpus.preferences("train") == [Preference(post(0), " Cat.", " Dog.")]
    left = corpus.provenance.details["left_out"]
    assert left["test: a response is empty"] == left["train: a response is empty"] == 1
    assert left["train: both responses are the same"] == 1


@pytest.mark.parametrize(
    "other", ["train.jsonl", "train-00000-of-00001.parquet", "train-00000-of-00002-a1b2.parquet", "more/train.jsonl"]
)
def test_a_split_that_is_there_twice_is_refused(tmp_path: Path, other: str) -> None:
    data = write_tldr(tmp_path) / "trl-lib" / "tldr" / "data"
    write = json_lines if other.endswith("jsonl") else parquet
    write(data / other, [{"prompt": post(9), "completion": "Cat."}])
    with pytest.raises(BadInput, match=r"has split 'train' more than once: data/.*train"):
        TLDR().load(str(tmp_path))


def test_texts_that_are_there_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tasks.check` and `tasks.fetch` on a language suite; of the hub's cache without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(tasks, "suite", {"tldr": TLDR_SUITE}.__getitem__)
    apps = {}
    for name, main in (("check", check.main), ("fetch", fetch.main)):
        apps[name] = typer.Typer()
        apps[name].command()(main)
    names = "trl-lib/tldr and trl-lib/tldr-preference"
    assert TLDR().data_location("auto") == (f"{names}, to fetch into the hub's cache", False)
    assert "1 tasks: 0 there and sound, 1 absent" in CliRunner().invoke(apps["check"], ["tldr"]).output
    for folder in (write_tldr(tmp_path) / "trl-lib").iterdir():
        place = tmp_path / "hub" / f"datasets--trl-lib--{folder.name}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    assert TLDR().data_location("auto") == (f"{names}, in the hub's cache", True)
    said = CliRunner().invoke(apps["check"], ["tldr", "--data", str(tmp_path)])
    assert said.exit_code == 0 and "6 examples" in said.output and "4 preferences" in said.output
    monkeypatch.setattr(hub, "locate", lambda repository, data: tmp_path / repository)
    said = CliRunner().invoke(apps["fetch"], ["tldr"])
    assert said.exit_code == 0 and "0 of 1 tasks without data" in said.output
    (tmp_path / "trl-lib" / "tldr" / "data" / "train-00001-of-00002.parquet").unlink()
    said = CliRunner().invoke(apps["fetch"], ["tldr"])
    assert said.exit_code == 2 and "has 1 of the 2 files of split 'train'" in said.output


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def renamed(path: Path) -> None:
    path.rename(path.with_name("test-00000-of-00003.parquet"))


def without_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 0), path)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (cut, "is not a Parquet file, or it is truncated"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "Parquet file but a git-LFS"),
        (lambda path: parquet(path, [{"prompt": "a", "text": "b"}]), "no column 'completion'; there is prompt, text"),
        (lambda path: parquet(path, [{"prompt": "a", "completion": 3}]), "completion of row 1 is no text but int"),
        (without_rows, "has no rows"),
        (Path.unlink, "has no split 'test'; there is train, validation"),
        (renamed, "has 1 of the 3 files of split 'test'"),
    ],
)
def test_broken_parquet_is_named(tmp_path: Path, damage, line: str) -> None:
    write_tldr(tmp_path)
    damage(tmp_path / "trl-lib" / "tldr" / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(BadInput, match=line) as caught:
        TLDR().load(str(tmp_path))
    assert "\n" not in str(caught.value) and "tldr" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (cut, r"jsonl\.gz is truncated or damaged \(after line \d+\)$"),
        (lambda path: path.write_bytes(b"{}"), r"jsonl\.gz is not a gzip file$"),
        (lambda path: path.write_bytes(b"version https://git-lfs"), "is not a gzip file but a git-LFS pointer to it"),
        (lambda path: path.write_bytes(gzip.compress(b'{"a": "\xff"}')), r"jsonl\.gz:1: invalid start byte at byte 7$"),
        (lambda path: path.write_bytes(gzip.compress(b"\n[" + b"9" * 5000)), r"jsonl\.gz:2: .* too many digits$"),
        (lambda path: (path.unlink(), os.mkfifo(path)), r"jsonl\.gz is a pipe or a device, not a file$"),
        (lambda path: path.rename(path.with_name("train.jsonl")), r"jsonl is not JSON lines but a gzip file$"),
        (lambda path: (path.write_bytes(b"\x1f\x8bxx" * 9)), r"is truncated or damaged \(after line 0\)$"),
        (lambda path: path.write_bytes(gzip.compress(b'{"chosen": "a", "rejected"')), r"jsonl\.gz:1: Expecting"),
        (lambda path: json_lines(path, [{"chosen": "a"}]), ":1 has no column 'rejected'; there is chosen"),
        (lambda path: path.write_bytes(gzip.compress(b"[1]")), ":1: no object with columns"),
        (lambda path: path.write_bytes(gzip.compress(b"[" * 100_000)), r"jsonl\.gz:1: nested too deeply$"),
        (lambda path: json_lines(path, [{"chosen": "a", "rejected": "\ud83d b"}]),
         r"jsonl\.gz:1: rejected of row 1 is no text: it holds half a character, \\ud83d"),
        (lambda path: json_lines(path, [{"chosen": "a", "rejected": "b"}] * 3), "no HH dialogues: 3 of 3 rows"),
    ],
)  # fmt: skip
def test_broken_json_lines_are_named(tmp_path: Path, damage, line: str) -> None:
    rows = [{"chosen": f"{dialogue(i)} {'yes ' * 50}.", "rejected": f"{dialogue(i)} No."} for i in range(300)]
    damage(json_lines(tmp_path / "hh-rlhf" / "train.jsonl.gz", rows))
    with pytest.raises(BadInput, match=line) as caught:
        HH(source="hh-rlhf").load(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_texts_that_may_not_be_read_are_said_to_be_so(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "train.jsonl", [{"chosen": "a"}])
    path.chmod(0)
    with pytest.raises(BadInput, match=r"^cannot read .*train\.jsonl: Permission denied$"):
        list(rows(path, ["chosen"]))


def test_half_a_character_is_named_with_its_line(tmp_path: Path) -> None:
    """JSON can spell it out; no tokenizer or hash takes it. An empty line is no row."""
    whole = [{"prompt": post(i), "completion": f"Cat {i} \U0001f431."} for i in range(3)]  # two of them, in JSON
    write_tldr(tmp_path)
    path = tmp_path / "trl-lib" / "tldr" / "data" / "test-00000-of-00001.parquet"
    path.unlink()
    path = json_lines(path.with_name("test.jsonl"), whole)
    path.write_bytes(path.read_bytes() + b"\n")
    assert TLDR().load(str(tmp_path)).examples("test")[2] == Example(post(2), " Cat 2 \U0001f431.")
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\\ud83d", b"", 3).replace(b"\\udc31", b"Q", 2))
    with pytest.raises(BadInput) as caught:
        TLDR().load(str(tmp_path))
    assert str(caught.value) == (f"{path}:4: completion of row 3 is no text: it holds half a character, \\udc31")


def test_parquet_s_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    write_tldr(tmp_path)
    path = tmp_path / "trl-lib" / "tldr" / "data" / "test-00000-of-00001.parquet"
    texts = pa.array([b"\xff\xfe"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"prompt": texts, "completion": ["Cat."]}), path)
    with pytest.raises(BadInput, match=r"test-00000-of-00001\.parquet holds a text that is not UTF-8"):
        TLDR().load(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("generate", "tldr is people's writing, which cannot be generated; tldr-synthetic can"),
        ("~no-such-user/x", "~no-such-user/x: no home directory is known for that"),
        ("/no/such/place", "--data /no/such/place is no folder; trl-lib/tldr is looked for below one"),
        (".", "has no folder trl-lib/tldr or tldr"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_had_is_one_line(tmp_path: Path, data: str, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        TLDR().data_location(str(tmp_path) if data == "." else data)


def test_only_news_is_refused(tmp_path: Path) -> None:
    news = {"prompt": "TITLE: Cats\n\nA cat.\n\nTL;DR:", "chosen": "Cat.", "rejected": "Dog."}
    parquet(write_tldr(tmp_path) / "trl-lib" / "tldr-preference" / "data" / "validation-00000-of-00001.parquet", [news])
    with pytest.raises(BadInput, match=r"no row of split 'validation' can be used \(no Reddit post"):
        TLDR().load(str(tmp_path))


HUB = "from tasks.language.tldr.suite import TLDR\ntry: TLDR().load('auto')\nexcept ValueError as error: print(error)"


def test_a_hub_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Without any network, and nothing in the cache. Importing the task loads no torch, transformers or datasets."""
    variables = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_ETAG_TIMEOUT": "2"}
    code = f"import sys\n{HUB}\nprint(sorted({{'torch', 'transformers', 'datasets', 'jax'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("cannot fetch trl-lib/tldr from the hub (") and "--data PATH" in lines[0], done
    assert lines[1:] == ["[]"]
