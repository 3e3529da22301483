"""Lines whose simulators fail; light to import, for worker processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.harness.line import Line, LineTask


class Cliff(Line):
    """Raises where x > 3."""

    def step(self, action: np.ndarray) -> Any:
        answer = super().step(action)
        if self.x > 3:
            raise ArithmeticError("fell down")
        return answer


class Abyss(Line):
    """Ends its process where x > 3."""

    def step(self, action: np.ndarray) -> Any:
        answer = super().step(action)
        if self.x > 3:
            os._exit(3)
        return answer


class Shut(Line):
    """Cannot begin."""

    def reset(self, **settings: Any) -> Any:
        raise ArithmeticError("shut")


@dataclass(frozen=True)
class On(LineTask):
    """The line with a simulator of that kind."""

    env: type[Line] = Line

    def make_env(self) -> Any:
        return self.env()

    make_online_env = make_env
