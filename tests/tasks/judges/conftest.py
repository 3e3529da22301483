"""What tests of the judge share."""

from __future__ import annotations

import pytest
import tenacity

from tasks.judges.chat import Chat


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed requests are made again at once."""
    monkeypatch.setattr(Chat.__init__, "__defaults__", (60.0, tenacity.wait_none()))
