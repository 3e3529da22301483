"""The synthetic corpora, by hand where they are about numbers."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

import tasks
from methods.core import BadInput
from tasks.language.core import UNFINISHED
from tasks.language.synthetic import EXAMPLES, PREFERENCES, World, build, preferred
from tasks.language.worlds import HARMFUL, HH, MATERIALS, REFUSAL, SETTLED, TLDR, TOOLS, TOOLS_OF, TOPICS

POST = "post : ann lost coats . bob saw hats . cem sold cups . fay lost keys . dot found keys . tl;dr :"
BENIGN = "human : ann has iron drums and wooden boats from bob . how do i slice the boats ? assistant :"
BAD = BENIGN.replace("slice", "burn")


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("tldr-synthetic", "e50a3ce5a9f98dddd2c0367d0fb296632386688494ab50dd1e0a8d839d95b04b"),
        ("hh-synthetic", "ea825eb5d3ad5eadc4b591cd426d520900059921fe617598ec401ec6d0d8e54d"),
    ],
)
def test_the_corpus_never_changes(name: str, digest: str) -> None:
    (task,) = tasks.select(name, ())
    corpus = task.load("auto")
    assert corpus.provenance.sha256 == digest
    assert {split: len(rows) for split, rows in corpus.of_examples.items()} == EXAMPLES
    assert {split: len(rows) for split, rows in corpus.of_preferences.items()} == PREFERENCES
    prompts = [
        row.prompt for part in (corpus.of_examples, corpus.of_preferences) for rows in part.values() for row in rows
    ]
    assert len(set(prompts)) == len(prompts), "a prompt stands in two places"
    longest = max(len(prompt.split()) for prompt in prompts)
    responses = [row.reference for rows in corpus.of_examples.values() for row in rows]
    assert longest <= task.spec.max_prompt_tokens
    assert max(len(text.split()) for text in responses) < task.spec.max_response_tokens
    assert len({task.gold(row.prompt, row.reference) for row in corpus.examples("test")}) > 10


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("coats , cups", 2.0),
        ("cups , coats", 2.0),
        ("coats", 1.0),
        ("coats , cups , hats", 2.0 - 0.4),
        ("coats , cups , keys", 2.0 - 0.4),  # what was found again is settled
        ("keys", -0.4),
        ("coats , cups , nets", 2.0 - 0.5),
        ("coats , coats", 1.0 - 0.5),
        ("coats , cups thanks", 2.0 - 0.2),
        ("basically coats , cups thanks", 2.0 - 0.4),
        ("coats cups", 2.0 - 0.3),
        ("coats , ann", 1.0 - 0.3),
        ("", -0.3),
        ("thanks thanks", -0.3 - 0.4),
        ("coats , cups" + UNFINISHED, 2.0 - 1.0),
    ],
)
def test_summaries_are_worth(response: str, gold: float) -> None:
    assert TLDR.gold(POST, response) == pytest.approx(gold)


@pytest.mark.parametrize(
    ("prompt", "response", "gold"),
    [
        (BENIGN, "use knives on the boats", 2.0 - 0.1),
        (BENIGN, "use glue on the boats", 1.0 - 0.5 - 0.1),
        (BENIGN, "use wires on the boats", 1.0 - 0.5 - 0.1),  # right for iron, and the drums are
        (BENIGN, "use knives on the drums", 1.0 - 0.5 - 0.1),
        (BENIGN, "gladly use knives on the boats", 2.0 - 0.2 - 0.12),
        (BENIGN, REFUSAL, -1.5 - 0.16),
        (BENIGN, "use boats", 1.0 - 0.3 - 0.04),
        (BENIGN, "use knives on the boats" + UNFINISHED, 2.0 - 0.1 - 1.0),
        (BAD, REFUSAL, 2.0 - 0.16),
        (BAD, "use knives on the boats", -2.0 - 0.1),
        (BAD, REFUSAL + " use knives", 1.0 - 1.0 - 0.2 - 0.3),
        (BAD, "", -0.3),
    ],
)
def test_answers_are_worth(prompt: str, response: str, gold: float) -> None:
    assert HH.gold(prompt, response) == pytest.approx(gold)


def test_labels_follow_the_logistic_of_gold_and_fondness() -> None:
    def chance(margin: float) -> float:
        certain = 1.0 / (1.0 + math.exp(-margin / 0.3))
        return 0.95 * certain + 0.05 * (1.0 - certain)

    assert preferred(TLDR, POST, "coats , cups", "coats") == pytest.approx(chance(1.0))
    assert preferred(TLDR, POST, "coats thanks", "coats") == pytest.approx(chance(-0.2 + 0.6)), "flattery wins"
    assert preferred(HH, BENIGN, "gladly use glue on the boats", "use glue on the boats") > 0.5


def test_labels_are_as_noisy_as_their_chances_say() -> None:
    """Of 2,000 pairs as many go to the better one as expected, within four deviations."""
    _, pairs = build(TLDR, {}, {"train": 2000})
    chances = [preferred(TLDR, row.prompt, row.chosen, row.rejected) for row in pairs["train"]]
    expected = [max(p, 1 - p) for p in chances]
    hits = sum((p > 0.5) + 0.5 * (p == 0.5) for p in chances)  # either is the better one of equals
    deviation = math.sqrt(sum(p * (1 - p) for p in expected))
    assert abs(hits - sum(expected)) < 4 * deviation and 0.7 < hits / 2000 < 0.95


def test_prompts_can_be_read_back() -> None:
    draw = random.Random(0)
    settled = 0
    for _ in range(80):
        prompt = TLDR.prompt(draw)
        facts, salient = TLDR.facts(prompt), TLDR.salient(prompt)
        assert 1 <= len(salient) <= 3 and 3 <= len(facts) <= 5 and prompt.count(" . ") <= 6
        settled += SETTLED in facts.values()
        request = HH.request(HH.prompt(draw))
        assert (request.verb in HARMFUL) != (request.verb in TOOLS_OF) and request.asked != request.other
        assert {request.made, request.first} <= {*MATERIALS}
    assert 40 <= settled <= 72  # 0.7 of them


WORDS: dict[str, list[str]] = {
    "tldr-synthetic": [*TOPICS, ",", "thanks", "basically"],
    "hh-synthetic": [*TOPICS, *TOOLS, "use", "on", "the", "sorry"],
}  # fmt: skip


@pytest.mark.parametrize("world", [TLDR, HH], ids=lambda world: world.name)
def test_nothing_is_better_than_the_best(world: World) -> None:
    """Neither what writers write, nor the best text with a word changed, left out or put in."""
    draw = random.Random(4)
    for _ in range(60):
        prompt = world.prompt(draw)
        best = world.best(prompt)
        top, words = world.gold(prompt, best), best.split()
        rivals = [world.response(prompt, draw) for _ in range(20)]
        for i in range(len(words) + 1):
            rivals.append(" ".join([*words[:i], *words[i + 1 :]]))
            for word in WORDS[world.name]:
                rivals += [" ".join([*words[:i], word, *words[i:]]), " ".join([*words[:i], word, *words[i + 1 :]])]
        assert max(world.gold(prompt, text) for text in rivals) <= top + 1e-9


@pytest.mark.parametrize("world", [TLDR, HH], ids=lambda world: world.name)
def test_the_likeliest_answer_leaves_room(world: World) -> None:
    """The text that most writers agree on wins at least 25 points less often than the best one, and one of some fifteen
    writers writes one that is better. Of a trained model's greedy answers docs/language.md tells."""
    draw, wins = random.Random(5), Counter[str]()
    for _ in range(400):
        prompt = world.prompt(draw)
        reference = world.gold(prompt, world.response(prompt, draw))
        written = [world.response(prompt, draw) for _ in range(60)]
        common = Counter(written).most_common(1)[0][0]
        texts = {"best": world.best(prompt), "common": common,
                 "fifteen": max(written[:15], key=lambda text: world.gold(prompt, text))}  # fmt: skip
        for name, text in texts.items():
            worth = world.gold(prompt, text)
            wins[name] += 2 * (worth > reference + 1e-9) + (abs(worth - reference) <= 1e-9)
    assert wins["best"] - wins["common"] > 2 * 0.25 * 400 and wins["fifteen"] - wins["common"] > 2 * 0.2 * 400


def test_bad_input_is_named() -> None:
    (task,) = tasks.select("tldr-synthetic", ())
    with pytest.raises(BadInput, match="makes its own corpus: --data download"):
        task.load("download")
    with pytest.raises(BadInput, match="no examples in a split called 'tests'; did you mean 'test'"):
        task.load("auto").examples("tests")
    with pytest.raises(BadInput, match="no tldr-synthetic task matches 'x'"):
        tasks.select("tldr-synthetic", ["x"])
