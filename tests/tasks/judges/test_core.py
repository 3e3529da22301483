"""Judges that compare numbers."""

from __future__ import annotations

import math

import pytest

from methods.core import BadInput
from tasks.judges import GoldJudge, Pair, RewardModelJudge, Verdict
from tasks.judges.core import refuse_optimised

PAIRS = [Pair("p", "long", "it"), Pair("p", "it", "long"), Pair("p", "same", "four"), Pair("q", "x", "x")]


def length(prompt: str, response: str) -> float:
    return float(len(response))


def test_gold_judges_by_the_reward() -> None:
    verdicts = GoldJudge(length).verdicts(PAIRS)
    assert [one.outcome for one in verdicts] == ["win", "loss", "tie", "tie"]
    assert [one.score for one in verdicts] == [1.0, 0.0, 0.5, 0.5]
    assert all(one.consistent and one.cost == 0 for one in verdicts)
    assert [one.outcome for one in GoldJudge(length, margin=2.0).verdicts(PAIRS)] == ["tie"] * 4


def test_swapped_pairs_have_swapped_verdicts() -> None:
    swapped = [Pair(pair.prompt, pair.b, pair.a) for pair in PAIRS]
    for judge in (GoldJudge(length), RewardModelJudge(lambda p, r: [len(text) for text in r], "length")):
        scores = zip(judge.verdicts(PAIRS), judge.verdicts(swapped), strict=True)
        assert all(one.score + other.score == 1 for one, other in scores)


def test_a_reward_model_scores_each_response_once_and_reports() -> None:
    seen: list[tuple[str, str]] = []
    reports: list[tuple[int, int]] = []

    def scorer(prompts, responses):
        seen.extend(zip(prompts, responses, strict=True))
        return [len(text) for text in responses]

    judge = RewardModelJudge(scorer, "rm", chunk=2)
    verdicts = judge.verdicts(PAIRS, progress=lambda done, of: reports.append((done, of)))
    assert [one.outcome for one in verdicts] == ["win", "loss", "tie", "tie"]
    assert sorted(seen) == sorted({(pair.prompt, text) for pair in PAIRS for text in (pair.a, pair.b)})
    assert reports[-1] == (4, 4) and [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert RewardModelJudge(scorer, "rm").verdicts([]) == []


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(BadInput, match="judge gold: a reward of nan"):
        GoldJudge(lambda prompt, response: math.nan).verdicts(PAIRS)


def test_the_optimised_reward_model_is_refused_unless_asked_for() -> None:
    refuse_optimised("a/b", {"a/b", "123"}, {"c/d", "456"})
    refuse_optimised("a/b", {"a/b"}, {"a/b"}, allowed=True)
    with pytest.raises(BadInput, match=r"judge a/b is the reward model that the run optimised \(123\)"):
        refuse_optimised("a/b", {"a/b", "123"}, {"123"})


def test_an_invalid_verdict_has_no_score() -> None:
    assert math.isnan(Verdict("invalid").score)
