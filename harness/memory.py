"""How much memory there is."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def host_memory() -> float:
    """Bytes that this process may have: the machine's, or less where a container or a limit says so."""
    found = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(float(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min([*found, *([float(limit)] if limit != resource.RLIM_INFINITY else [])])


def amount(size: float) -> str:
    """Bytes in the unit a person would choose."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB", "EB"):
        if size < 1000 or unit == "EB":
            break
        size /= 1000
    return f"{size:,.3g} {unit}" if size < 1e4 else f"{size:,.0f} {unit}"
