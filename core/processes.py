"""Processes that a program starts for itself."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any


def die_with_parent() -> None:
    """Called in a child: makes it exit when its parent is gone, however that went."""

    def watch(parent: Any) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, args=(multiprocessing.parent_process(),), daemon=True).start()
