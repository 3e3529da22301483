"""The synthetic corpus of posts and their summaries, with a known gold reward."""

from __future__ import annotations

from tasks.language.core import LanguageSpec, Suite
from tasks.language.synthetic import SyntheticTask
from tasks.language.worlds import TLDR

TASK = SyntheticTask("tldr-synthetic", TLDR, LanguageSpec(max_prompt_tokens=40, max_response_tokens=16))
SUITE = Suite({TASK.name: TASK})
names, get = SUITE.names, SUITE.get
