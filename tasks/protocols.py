"""Protocols: named bundles of what must agree before the scores of two methods may be compared.

A suite's `protocols.toml` has a table for each, the first of which is the default:

  about   what it is, in a line
  tables  CSV files in the suite's folder with per-task settings, later ones over earlier ones; where an online phase
          follows, `NAME_online.csv` comes after each `NAME.csv` that has one beside it
  set     settings for all tasks, as in `presets.toml`
  ...     any other key is a size of a run

A suite without the file has one protocol, which has no name: its `settings.csv`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """One of a suite's."""

    name: str = ""
    about: str = ""
    tables: tuple[str, ...] = ("settings.csv",)
    set: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def files(self, *, online: bool) -> tuple[str, ...]:
        """The tables that count, in order; those of an `online` phase last. Not every one need be there."""
        return self.tables + tuple(name.replace(".csv", "_online.csv") for name in self.tables if online)


def read(folder: Path) -> dict[str, Protocol]:
    """The protocols of a suite's folder, by name, the default first."""
    path = folder / "protocols.toml"
    if not path.exists():
        return {"": Protocol()}
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _protocol(name, dict(values)) for name, values in told.items()}


def _protocol(name: str, values: dict[str, Any]) -> Protocol:
    about, tables, chosen = values.pop("about"), tuple(values.pop("tables")), values.pop("set", {})
    return Protocol(name, about, tables, chosen, sizes=values)
