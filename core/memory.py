"""How much memory there is, and how much is left: of the machine, of a container (cgroup v1 or v2), of a limit."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def host_memory() -> float:
    """Bytes that this process may have: the machine's, or less where a container or a limit says so."""
    machine = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    limit = _address_limit()
    return min([machine, *(most for most, _ in _containers()), *([] if limit is None else [limit])])


def available_memory() -> float | None:
    """Bytes that this process can still get, swap included; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {name: float(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        free = [found["MemAvailable"] + found["SwapFree"], *(most - used for most, used in _containers())]
        if (limit := _address_limit()) is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            free.append(limit - float(os.sysconf("SC_PAGE_SIZE")) * pages)
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return max(0.0, min(free))


def amount(size: float) -> str:
    """Bytes in the unit a person would choose."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB", "EB"):
        if size < 1000 or unit == "EB":
            break
        size /= 1000
    return f"{size:,.3g} {unit}" if size < 1e4 else f"{size:,.0f} {unit}"


def _address_limit() -> float | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else float(limit)


def _containers() -> Iterator[tuple[float, float]]:
    """(limit, use) in bytes of each control group that this process is in and that has a limit."""
    for folder, limit, use in _groups():
        with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
            most = float((folder / limit).read_text())
            used = 0.0
            with contextlib.suppress(OSError, ValueError):
                used = max(0.0, float((folder / use).read_text()) - _cached(folder))
            yield most, used


def _groups() -> Iterator[tuple[Path, str, str]]:
    """Folders of this process's groups, from its own to the root, and the names of the files on limit and use. Inside a
    container its own group may be seen as the root."""
    v1, v2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
    own = {_CGROUPS: "/", _CGROUPS / "memory": "/"}
    with contextlib.suppress(OSError):
        for line in _OWN.read_text(errors="replace").splitlines():
            _, controllers, below = (*line.split(":", 2), "", "")[:3]
            if not controllers:
                own[_CGROUPS] = below
            elif "memory" in controllers.split(","):
                own[_CGROUPS / "memory"] = below
    for root, names in ((_CGROUPS, v2), (_CGROUPS / "memory", v1)):
        place = root / own[root].lstrip("/")
        while place != root and place.is_relative_to(root):
            yield place, *names
            place = place.parent
        yield root, *names


def _cached(folder: Path) -> float:
    """Bytes of files that a group's use counts and that the system drops when memory is asked for."""
    rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    found = {row[0]: float(row[1]) for row in rows if len(row) == 2}
    prefix = "total_" if "total_inactive_file" in found else ""
    return found.get(f"{prefix}inactive_file", 0.0) + found.get(f"{prefix}active_file", 0.0)
