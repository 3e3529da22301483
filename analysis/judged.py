"""What judges said of the responses of language runs, and of a row of verdicts its numbers.

Judges: `recorded:<task.judge>`, who gave the scores of episodes.csv, and each `verdicts-<judge>.csv` that
`python -m tasks.judge` left beside a run's responses, as long as these are the ones it judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.choices import settings
from analysis.records.files import RecordError, shown
from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.records.verdict_files import judged, texts, verdict_files
from analysis.select import headline
from analysis.statistics.estimates import generator
from analysis.statistics.winrate import length_controlled, rates, wilson, win_rate
from core.errors import BadInput
from core.knobs import Knobs

RECORDED = "recorded"
VALUES = ("score", "consistent", "longer", "cost")
"""Of a verdict; `longer`: characters that the response has more than the reference. NaN where not known."""
KEY = ["seed", "setting", "episode"]
"""What a response is known by within its run."""
MEASURED = ("gold", "proxy", "soft")
"""Of a judged response, rewards from the records; NaN where they have none."""

Judges = dict[str, list[tuple[Path, str]]]
"""Judge -> of each seed, the file of its verdicts and the SHA-256 of the texts beside it."""
Verdicts = dict[str, np.ndarray]
"""VALUES and MEASURED -> `[k, s, e]`."""


class Judged(NamedTuple):
    """A run by one judge."""

    run: Run
    judge: str
    about: Mapping[str, Any]
    """What the verdicts' file says of the judge (`core.records.VerdictsRecord`); empty where the harness asked it."""
    settings: list[str]
    """`[k]`, by the knobs' values."""
    seeds: np.ndarray
    """`[s]`."""
    prompts: np.ndarray
    """`[e]`, their numbers."""
    names: list[str]
    """`[e]`: number and hash of each prompt."""
    values: Verdicts


def each(records: Records, judge: str, notes: list[str], knobs: Knobs | None = None) -> Iterator[Judged]:
    """Every run that was judged, by every judge whose id begins so, at the settings that `knobs` keep."""
    for run, rows in records.each(scored=False):
        about, names, judges = _texts(run, notes)
        if about is None:
            continue
        order = [one for one in settings(headline(rows), run.knobs) if knobs is None or kept(knobs, run, one)]
        itself = ":".join(filter(None, (RECORDED, (run.meta.get("task_options") or {}).get("judge"))))
        for by in [*([itself] if rows["score"].notna().any() else []), *sorted(judges)]:
            if not by.startswith(judge):
                continue
            tables, said = list[pd.DataFrame](), dict[str, Any]()
            try:
                tables += [_recorded(rows, run)] if by == itself else []
            except BadInput as error:
                notes.append(f"{run.name}: {error}, left out")
                continue
            for path, sha256 in judges.get(by, ()):
                try:
                    table, of = judged(path, run.knobs, sha256)
                except BadInput as error:
                    notes.append(f"{run.name}: {error}, left out")
                    continue
                tables.append(table)
                said |= {**of, "optimised": bool(said.get("optimised")) or bool(of.get("optimised"))}
            if not tables:
                continue
            table = pd.concat(tables, ignore_index=True)
            table = table[table["seed"].isin(about["seed"])]
            known = table["setting"].isin(settings(headline(rows), run.knobs))
            if not known.all():
                notes.append(f"{run.name}, {by}: {(~known).sum()} verdicts on settings that the records lack, left out")
            table = table.loc[table["setting"].isin(order), [*KEY, "score", "consistent", "cost"]]
            table = table.merge(about, on=KEY, how="left")
            table = table.merge(_measured(records.measured(run).loc[rows.index]), on=KEY, how="left")
            if len(table):
                mine = [name for name in order if name in set(table["setting"])]
                seeds, prompts, values = _arrays(table, mine)
                yield Judged(run, by, said, mine, seeds, prompts, [names.get(one, f"{one}") for one in prompts], values)


def there(records: Records) -> list[tuple[str, dict[str, set[float]]]]:
    """Of every language run its method and the values that each of its knobs has, for `Knobs.check`."""
    runs = [(run, rows) for run, rows in records.each(scored=False) if run.sources[0].share]
    return [(run.method, {knob: set(rows[knob].unique().tolist()) for knob in run.knobs}) for run, rows in runs]


def kept(knobs: Knobs, run: Run, setting: str) -> bool:
    """Whether `knobs` keep a setting of a run, which is called as in `setting_name`."""
    pairs = (one.rpartition("=") for one in setting.split())
    return knobs.keeps(run.method, {name: float(value) for name, _, value in pairs})


def described(judge: str, about: Mapping[str, Any]) -> str:
    """Who a judge is, in words: "gpt-4o, asked with dpo-tldr-c"."""
    said = {name: shown(str(about.get(name, "")), quote=False, longest=60) for name in ("kind", "model", "template")}
    if judge.startswith(RECORDED):
        name = judge.removeprefix(RECORDED).removeprefix(":")
        return {"gold": "the task's known reward, as the run was evaluated", "": "not recorded"}.get(name, name)
    if said["kind"] == "http":
        return f"{said['model']}, asked with {said['template'] or 'a prompt that is not recorded'}"
    if said["kind"] == "reward model":
        return f"the reward model {said['model']}, which is not the one that was optimised"
    return "the task's known reward" if said["kind"] == "gold" else "its file does not say what it is"


def numbers(of: Verdicts, run: Run) -> dict[str, float]:
    """The columns of one row, from its verdicts `[s, e]`: those of `winrate.Rates`, win_rate, low, high, wilson_low,
    wilson_high, controlled, controlled_low, controlled_high, longer and cost."""
    scores, longer = of["score"], of["longer"]
    judged = ~np.isnan(of["cost"])  # both judged and recorded rows have one
    rng = generator(run.suite, run.task)
    own, found = win_rate(scores, rng), rates(scores, of["consistent"], judged)
    prompts = int((~np.isnan(scores)).any(axis=0).sum())
    low, high = wilson(float(own.value), prompts)
    level = length_controlled(scores, longer) if not np.isnan(longer[~np.isnan(scores)]).any() else [math.nan] * 3
    more = float(np.nanmean(longer)) if not np.isnan(longer).all() else math.nan
    names = ("controlled", "controlled_low", "controlled_high")
    return (
        found._asdict()
        | dict(zip(("win_rate", "low", "high"), map(float, own), strict=True))
        | {"wilson_low": low, "wilson_high": high}
        | dict(zip(names, map(float, level), strict=True))
        | {"longer": more, "cost": float(np.nansum(of["cost"]))}
    )


def rewards(of: Verdicts) -> dict[str, float]:
    """MEASURED of one row `[s, e]`, means over the prompts and seeds that were judged."""
    return {name: float(np.nanmean(of[name])) if not np.isnan(of[name]).all() else math.nan for name in MEASURED}


def _measured(rows: pd.DataFrame) -> pd.DataFrame:
    """KEY and MEASURED of the evaluation that counts."""
    last = headline(rows)
    return last[KEY].astype({"setting": str}).assign(**{name: last.get(name, np.nan) for name in MEASURED})


def _texts(run: Run, notes: list[str]) -> tuple[pd.DataFrame | None, dict[int, str], Judges]:
    """(what `texts` says of all seeds, None without any; names of the prompts; verdicts files by judge).

    A seed whose texts cannot be read, or which answered other prompts, is left out with a note.
    """
    frames, names, judges = list[pd.DataFrame](), dict[int, str](), Judges()
    for source in run.sources:
        path = source.folder / "responses.jsonl"
        if not path.exists():
            continue
        try:
            about, own, sha256 = texts(path, run.knobs)
            files = verdict_files(source.folder, notes)
            if not about["seed"].isin(source.seeds).all():
                raise RecordError(f"{path} has responses of other seeds than its run.json")
            if any(names.get(episode, name) != name for episode, name in own.items()):
                raise RecordError(f"{path} answers other prompts than the seeds before it")
        except BadInput as error:
            notes.append(f"{run.name}: {error}, left out")
            continue
        frames.append(about)
        names |= own
        for by, file in files.items():
            judges.setdefault(by, []).append((file, sha256))
    return pd.concat(frames, ignore_index=True) if frames else None, names, judges


def _arrays(table: pd.DataFrame, order: list[str]) -> tuple[np.ndarray, np.ndarray, Verdicts]:
    """(seeds, prompts, VALUES and MEASURED as `[k, s, e]`)."""
    seed, seeds = pd.factorize(table["seed"].to_numpy(), sort=True)
    episode, prompts = pd.factorize(table["episode"].to_numpy(), sort=True)
    at = (pd.Categorical(table["setting"], categories=order).codes, seed, episode)
    values = {name: np.full((len(order), len(seeds), len(prompts)), np.nan) for name in (*VALUES, *MEASURED)}
    for name, array in values.items():
        array[at] = table[name].to_numpy(float)
    return seeds, prompts, values


def _recorded(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The verdicts behind the scores of the evaluation that counts. Raises: RecordError if they are none."""
    last = headline(rows)
    scores = last["score"].to_numpy(float) / 100  # read in percent
    if (odd := ~np.isin(scores, (0.0, 0.5, 1.0)) & ~np.isnan(scores)).any():
        raise RecordError(f"a score of {scores[odd][0]:g} is no verdict")
    table = last[["seed", "episode"]].assign(setting=last["setting"].astype(str), score=scores, cost=0.0)
    return table.assign(consistent=np.nan)
