"""The contract of a judge, and the judges that compare two numbers: a known gold reward, and a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from core.errors import BadInput

Outcome = Literal["win", "tie", "loss", "invalid"]
SCORES: dict[str, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0, "invalid": math.nan}

Reward = Callable[[str, str], float]
"""(prompt, response) -> reward."""

Scorer = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(prompts `[n]`, responses `[n]`) -> scores `[n]`; as large batches as it likes."""

Progress = Callable[[int, int], None]
"""Called with (judged, of how many) as verdicts come in."""


class Pair(NamedTuple):
    """Two responses to one prompt. A verdict is about `a`, usually a method's; `b` is usually the reference."""

    prompt: str
    a: str
    b: str


class Verdict(NamedTuple):
    """What a judge says of a pair's `a`."""

    outcome: Outcome
    consistent: bool = True
    """Whether both orders, (a, b) and (b, a), gave the same answer. Where they did not, the outcome is a tie."""
    cost: float = 0.0
    """Of the calls behind it, whenever they were made, in USD."""
    unanswered: bool = False
    """Whether it is invalid only because the judge could not be reached; asked again, it may answer."""

    @property
    def score(self) -> float:
        """Win 1, tie 0.5, loss 0; NaN where the judge gave no valid answer."""
        return SCORES[self.outcome]


class Judge(Protocol):
    """Compares the two responses of each pair."""

    @property
    def id(self) -> str:
        """Short, fit for a file's name, and another one for a judge that would judge otherwise."""

    def verdicts(self, pairs: Sequence[Pair], progress: Progress | None = None) -> list[Verdict]:
        """One verdict a pair, in the order of the pairs.

        Raises:
          BadInput: it cannot judge, in one line that says why.
        """


@dataclass(frozen=True)
class GoldJudge:
    """Judges by a reward that is known, so its verdicts are exact and both orders agree.

    Rewards that differ by at most `margin` tie. Identical texts always do.
    """

    reward: Reward
    id: str = "gold"
    margin: float = 0.0

    def verdicts(self, pairs: Sequence[Pair], progress: Progress | None = None) -> list[Verdict]:
        """See `Judge.verdicts`. Raises: BadInput for a reward that is not finite."""
        found = []
        for done, (prompt, a, b) in enumerate(pairs, start=1):
            found.append(compared(self.reward(prompt, a), self.reward(prompt, b), self.margin, self.id))
            if progress is not None:
                progress(done, len(pairs))
        return found


@dataclass(frozen=True)
class RewardModelJudge:
    """Judges by a reward model's scores. Of the model that a method optimised this would measure the optimiser, not
    the responses; `refuse_optimised` is asked before."""

    scorer: Scorer
    id: str
    margin: float = 0.0
    chunk: int = 256  # responses scored between two reports of progress

    def verdicts(self, pairs: Sequence[Pair], progress: Progress | None = None) -> list[Verdict]:
        """See `Judge.verdicts`; a response that stands in several pairs is scored once.

        Raises: BadInput for a score that is not finite.
        """
        texts = list(dict.fromkeys((pair.prompt, text) for pair in pairs for text in (pair.a, pair.b)))
        scores: dict[tuple[str, str], float] = {}
        for start in range(0, len(texts), self.chunk):
            some = texts[start : start + self.chunk]
            prompts, responses = [prompt for prompt, _ in some], [response for _, response in some]
            scores |= zip(some, map(float, self.scorer(prompts, responses)), strict=True)
            if progress is not None:
                progress(len(pairs) * len(scores) // len(texts), len(pairs))
        return [
            compared(scores[pair.prompt, pair.a], scores[pair.prompt, pair.b], self.margin, self.id) for pair in pairs
        ]


def compared(a: float, b: float, margin: float, judge: str) -> Verdict:
    """The verdict of two numbers. Raises: BadInput if either is not finite."""
    if not (math.isfinite(a) and math.isfinite(b)):
        raise BadInput(f"judge {judge}: a reward of {a if not math.isfinite(a) else b} compares with nothing")
    return Verdict("tie" if abs(a - b) <= margin else "win" if a > b else "loss")


def refuse_optimised(judge: str, names: Collection[str], optimised: Iterable[str], allowed: bool = False) -> None:
    """Refuses a reward model as the judge of responses that were made to please it.

    Args:
      judge: how the user calls it.
      names: everything it is known by: name, path, fingerprint, SHA-256.
      optimised: the same of the reward models that the run optimised.

    Raises:
      BadInput: they have a name in common, and `allowed` is False.
    """
    if not allowed and (common := set(names) & set(optimised)):
        raise BadInput(f"judge {judge} is the reward model that the run optimised ({sorted(common)[0]}); "
                       "take another, or ask for it with --allow-optimised")  # fmt: skip
