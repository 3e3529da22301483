"""Reddit TL;DR: summaries of posts.

Examples: trl-lib/tldr. Preferences: trl-lib/tldr-preference, without the CNN/DM articles of its validation split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tasks.language.core import Example, LanguageSpec, Preference, Suite, fault
from tasks.language.hub import HubTask, Reader, spaced

REDDIT = "SUBREDDIT: "  # what Reddit posts begin with; CNN/DM articles begin with their title


@dataclass(frozen=True)
class TLDR(HubTask):
    """Summaries of Reddit posts."""

    name: ClassVar[str] = "tldr"
    spec: ClassVar[LanguageSpec] = LanguageSpec(max_prompt_tokens=448, max_response_tokens=53)  # N+'s (2403.17031)
    repositories: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "trl-lib/tldr": HubTask.splits, "trl-lib/tldr-preference": ("train", "validation"),
    }  # fmt: skip

    def read(self, reader: Reader) -> tuple[dict[str, Sequence[Example]], dict[str, Sequence[Preference]]]:
        summaries, compared = self.repositories
        examples: dict[str, Sequence[Example]] = {}
        for split in self.repositories[summaries]:
            found = reader.sound(summaries, split, ("prompt", "completion"), lambda row: fault(row["completion"]))
            examples[split] = [Example(row["prompt"].rstrip(), spaced(row["completion"])) for row in found]
        preferences: dict[str, Sequence[Preference]] = {}
        for split in self.repositories[compared]:
            found = reader.sound(compared, split, ("prompt", "chosen", "rejected"), self.reason)
            preferences[split] = [
                Preference(row["prompt"].rstrip(), spaced(row["chosen"]), spaced(row["rejected"])) for row in found
            ]
        return examples, preferences

    @staticmethod
    def reason(row: Mapping[str, str]) -> str:
        """Why a row of preferences is left out; "" if it is not."""
        if not row["prompt"].startswith(REDDIT):
            return f"no Reddit post, which begins with {REDDIT.strip()!r}"
        return fault(row["chosen"], row["rejected"])


TASK = TLDR()
SUITE = Suite({TASK.name: TASK})
names, get = SUITE.names, SUITE.get
