"""The synthetic corpus of requests and an assistant's replies, with a known gold reward."""

from __future__ import annotations

from tasks.language.core import LanguageSpec, Suite
from tasks.language.synthetic import SyntheticTask
from tasks.language.worlds import HH

TASK = SyntheticTask("hh-synthetic", HH, LanguageSpec(40, 16, best_known=True))
SUITE = Suite({TASK.name: TASK})
names, get = SUITE.names, SUITE.get
