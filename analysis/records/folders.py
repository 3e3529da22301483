"""Folders with a run.json, in either layout, and how those of a run's seeds become one run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from analysis.records.files import RecordError, alive_in, content, shown
from analysis.records.runs import ENDINGS, KILLED, TAKEN, Run, Source, named
from core import records, strict_json
from core.errors import reason
from core.text import printable

DEEPEST = 32  # levels of lists and mappings in a record
LONGEST_KNOB = 50
NAMED = 3  # differences of a kind that a line names
IDENTITY = ("suite", "task", "method", "fingerprint")
SEED = re.compile(r"seed-(0|[1-9][0-9]{0,18})")


class Place(NamedTuple):
    """A folder with a run.json, or where one should be."""

    folder: Path
    run: Path
    """The folder of its run."""
    seed: int | None = None
    """None in the old layout."""


def places(runs: Path) -> tuple[list[Place], list[str]]:
    """(every folder of a run of the old layout and of a seed below `runs`, in order; notes on what cannot be listed).

    A folder may hold both: a run of the old layout, and the seeds of one that was made anew.
    """
    found, notes = [runs] if runs.is_dir() else [], list[str]()
    for _ in IDENTITY:
        found = [path for folder in found for path in _folders(folder, notes)]
    every: list[Place] = []
    for run in found:
        below = [path for path in _folders(run, notes) if path.name.startswith("seed-")]
        seeds = {path: int(match[1]) for path in below if (match := SEED.fullmatch(path.name))}
        notes += [f"left out: {path} is no seed's folder (seed-0, seed-1, ...)" for path in below if path not in seeds]
        if not seeds or (run / "run.json").exists():
            every.append(Place(run, run))
        every += [Place(path, run, seed) for path, seed in sorted(seeds.items(), key=lambda one: one[1])]
    return every, notes


def _folders(folder: Path, notes: list[str]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        notes.append(f"left out: {reason(error)}")
        return []


def read_source(place: Place) -> Source:
    """run.json of a folder, checked. Raises: BadInput naming the file and what is wrong with it."""
    folder, path = place.folder, place.folder / "run.json"
    record = _record(path)
    seeds = records.seeds_of(record)
    alive = alive_in(folder) if record["status"] == "running" else None
    if alive is False:
        record = _record(path)  # it may have ended between the two looks
    status = KILLED if alive is False and record["status"] == "running" else record["status"]
    ending = "was running when it last wrote" if status == "running" and alive is None else ENDINGS[status]
    meta = _clean(record, str(path))
    said = "/".join(str(meta[key]) for key in IDENTITY)
    name = f"{meta['suite']}/{meta['task']}/{meta['method']}/{meta['fingerprint'][:12]}"
    is_there = tuple(meta[key] for key in IDENTITY) == place.run.parts[-4:]
    if place.seed is not None:
        said += f", {named(seeds)}" if "format" in record else ", of the old layout"
        is_there &= "format" in record and seeds == (place.seed,)
        name += f" seed {place.seed}"
    elif "format" in record:
        said, is_there = f"{said}, of one seed", False
    if not is_there:  # a copied folder would count its seeds twice
        raise RecordError(f"{path} says it is {said}, its folder says otherwise")
    return Source(folder, name, seeds, status, ending, meta)


def _record(path: Path) -> records.RunRecord | records.SeedRecord:
    if (found := content(path)) is None:
        raise RecordError(f"{path.parent} has no run.json")
    record = records.check_run(strict_json.parse(found, str(path)), str(path))
    for knob in record["knobs"]:
        if not (knob.isascii() and knob.isidentifier() and len(knob) <= LONGEST_KNOB) or knob in TAKEN:
            raise RecordError(f"{path}: knobs: no knob can be called {shown(knob)}")
    return record


def odd_ones(sources: Sequence[Source]) -> dict[Source, str]:
    """Source -> why it cannot be of one run with most of the others: it has other knobs."""
    usual, _ = Counter(source.knobs for source in sources).most_common(1)[0]
    of_others = ", ".join(usual) or "none"
    return {
        source: f"its knobs are {', '.join(source.knobs) or 'none'}, those of other seeds {of_others}"
        for source in sources
        if source.knobs != usual
    }


def unite(run: Path, sources: Sequence[Source], lost: Mapping[int, str]) -> Run:
    """One run of its sources, one or more, by seed."""
    meta = sources[0].meta if sources[0].old else _united(sources)
    values = {key: meta[key] for key in (*IDENTITY, "config")}
    one = Run(run, label="", knobs=sources[0].knobs, meta=meta, sources=tuple(sources), lost=lost, **values)
    return replace(one, label=one.series)


def _united(sources: Sequence[Source]) -> dict[str, Any]:
    """A run.json of all seeds: that of the first which is finished, with the times of all added up."""
    metas = [source.meta for source in sources]
    meta = dict(next((source.meta for source in sources if source.status == "finished"), metas[0]))
    meta["seeds"] = [meta.pop("seed") if one is meta else one["seed"] for one in metas]
    meta["episodes"] = max(one["episodes"] for one in metas)
    clock: Counter[str] = Counter()
    for one in metas:
        clock.update(one.get("wall_clock_s") or {})
    stages = [{stage["name"]: stage.get("seconds") for stage in one.get("stages") or []} for one in metas]
    meta |= {"wall_clock_s": dict(clock), "stages": [
        {**stage, "seconds": _total([one.get(stage["name"]) for one in stages])} for stage in meta.get("stages") or []
    ]}  # fmt: skip
    kinds = list(dict.fromkeys(device for one in metas if (device := _device(one))))
    meta["device"] = {"kind": " / ".join(kinds)} if len(kinds) > 1 else meta.get("device")
    for key, end in (("created", min), ("updated", max)):
        if known := [one[key] for one in metas if one.get(key)]:
            meta[key] = end(known)
    return meta


def _total(seconds: Sequence[float | None]) -> float | None:
    """Of the seeds that have any; None where none has."""
    known = [one for one in seconds if one is not None]
    return sum(known) if known else None


def _device(meta: Mapping[str, Any]) -> str:
    device = meta.get("device") or {}
    return str(device.get("kind") or device.get("platform") or "")


def differences(run: Run, evaluations: Mapping[Source, str]) -> str:
    """One line on what a run's seeds differ in though they should not, or "". `evaluations`: of each seed, in words."""
    if len(run.sources) < 2:
        return ""
    found = [_grouped("evaluations", run, evaluations.__getitem__)]
    for what, of in KINDS.items():
        found.append(_grouped(what, run, of))
    found += [_changed("code", run, _code), _changed("versions", run, _versions), _changed("settings", run, _config)]
    said = "; ".join(filter(None, found))
    return f"{run.name}: its seeds differ in {said}" if said else ""


KINDS: dict[str, Callable[[Source], str]] = {
    "episodes": lambda source: f"{source.meta['episodes']} each",
    "data": lambda source: str((source.meta.get("dataset") or {}).get("sha256") or "")[:12],
    "device": lambda source: _device(source.meta),
}


def _grouped(what: str, run: Run, of: Callable[[Source], str]) -> str:
    """ "device: cpu (seed 3), NVIDIA H200 (seeds 0-2)", or "" where those that are known agree."""
    groups: dict[str, list[int]] = {}
    for source in run.sources:
        if value := of(source):
            groups.setdefault(value, []).extend(source.seeds)
    if len(groups) < 2:
        return ""
    return f"{what}: " + ", ".join(f"{shown(value, quote=False)} ({named(seeds)})" for value, seeds in groups.items())


def _changed(what: str, run: Run, of: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> str:
    """ "code: methods/iql.py (seeds 0-2 | seed 3)": the entries that differ, and the seeds that agree in all."""
    tables = {source.seeds: {key: _text(value) for key, value in of(source.meta).items()} for source in run.sources}
    values: dict[str, set[str]] = {}
    for table in tables.values():
        for key, value in table.items():
            values.setdefault(key, set()).add(value)
    differ = sorted(key for key, seen in values.items() if len(seen) > 1)
    if not differ:
        return ""
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for seeds, table in tables.items():
        groups.setdefault(tuple(table.get(key) for key in differ), []).extend(seeds)
    more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
    names = ", ".join(shown(key, quote=False) for key in differ[:NAMED])
    return f"{what}: {names}{more} ({' | '.join(map(named, groups.values()))})"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _code(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Digests of source files: of those that ran, and of those that trained each stage."""
    found = dict(meta.get("code") or {})
    for stage in meta.get("stages") or []:
        found |= {f"{file} (of stage {stage['name']})": digest for file, digest in (stage.get("code") or {}).items()}
    return found


def _versions(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    return meta.get("versions") or {}


def _config(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one.get("value", one) if isinstance(one, dict) else one for key, one in meta["config"].items()}


def _clean(value: Any, where: str, left: int = DEEPEST) -> Any:
    """The same without control characters but line ends. Raises: RecordError if it is nested too deeply."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(printable, value.split("\n")))
    if not isinstance(value, dict | list):
        return value
    if not left:
        raise RecordError(f"{where}: nested too deeply")
    if isinstance(value, list):
        return [_clean(one, where, left - 1) for one in value]
    return {_clean(key, where): _clean(one, where, left - 1) for key, one in value.items()}
