"""The synthetic corpus of posts and their summaries, with a known gold reward."""

from __future__ import annotations

from tasks.language.core import LanguageSpec, Suite
from tasks.language.synthetic import SyntheticTask
from tasks.language.worlds import TLDR

TASK = SyntheticTask("tldr-synthetic", TLDR, LanguageSpec(40, 16, best_known=True))
SUITE = Suite({TASK.name: TASK})
names, get = SUITE.names, SUITE.get
