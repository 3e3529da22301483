"""Figures of language runs: true (gold) and learned (proxy) reward against what was spent to raise them.

They rest on the columns that language runs add to episodes.csv (`results/README.md`). Intervals are over seeds; of
gains over L_test=0, which are paired text by text, over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.choices import settings
from analysis.figures.language_plots import PANELS, STEP, TEST, N, lines, named
from analysis.figures.material import Frames, Material, by_task
from analysis.records.files import RecordError
from analysis.records.load import Records
from analysis.records.mirror import origin
from analysis.records.runs import Run
from analysis.select import headline
from analysis.statistics.estimates import bootstrap, generator, summarise
from core import strict_json
from core.errors import BadInput, reason
from core.files import open_plain

MEASURES = (
    "gold", "proxy", "nll", "edit_fraction", "eos", "length", "gradients", "samples", "compute", "transport", "kl",
    "soft",
)  # fmt: skip
TEMPERATURE, SOFTNESS = "T", "lambda"
"""Knobs: the temperature of sampling, which is one where there are several, and that of a choice among N samples."""
START = {TEST: 0, N: 1}
"""Where what a reward model can be optimised by begins."""
LARGEST_HEADER = 1 << 24  # bytes, of a file of weights


def points(records: Records) -> tuple[pd.DataFrame, list[str]]:
    """A row a (run, setting) of the last evaluation of each run with a gold or a proxy reward, and notes.

    Columns: suite, task, method, label, setting, line (label and the settings beside L_test and N), the knobs,
    temperature (of sampling; NaN where not recorded), of each of MEASURES its mean, <measure>_low and <measure>_high
    (NaN where it was not measured), seeds, accuracy (of the reward model, NaN where not recorded), and of gold and
    proxy <measure>_spread: over prompts, the mean of the seeds', and <measure>_gain with its _low and _high: over
    L_test=0 (N=1 of methods without L_test) at the same other knobs, prompt by prompt.
    """
    rows: list[dict[str, Any]] = []
    notes = []
    for run, episodes in records.each(scored=False):
        if not {"gold", "proxy"} & set(records.extras.get(run.key, ())):
            continue
        known, remarks = accuracy(run)
        notes += remarks
        last = headline(records.measured(run).loc[episodes.index])
        for setting in settings(last, run.knobs):
            mine = last[last["setting"] == setting]
            values = {knob: float(mine[knob].iloc[0]) for knob in run.knobs}
            rest = " ".join(f"{knob}={value:g}" for knob, value in values.items() if knob not in (TEST, N))
            row: dict[str, Any] = {"suite": run.suite, "task": run.task, "method": run.method, "label": run.label}
            row |= {"setting": setting, "line": f"{run.label} {rest}".strip(), **values}
            row |= {"seeds": mine["seed"].nunique(), "temperature": _temperature(values, run)}
            paired: dict[str, float] = {}
            if more := next((knob for knob in (TEST, N) if knob in run.knobs), ""):
                first = START[more]
                at_first = [last[knob] == (first if knob == more else values[knob]) for knob in run.knobs]
                paired = _gains(mine, last[np.all(at_first, axis=0)], run)
            rows.append(row | {"accuracy": known} | _means(mine, run) | paired)
        if last["gold"].isna().all() if "gold" in last else True:
            notes.append(f"{run.name}: no gold reward, so not in the figures of it")
    frame = pd.DataFrame(rows)
    for knob in (TEST, STEP, N, SOFTNESS):
        if len(frame) and knob not in frame:
            frame[knob] = np.nan
    return frame, notes


def accuracy(run: Run) -> tuple[float, list[str]]:
    """(of the run's reward models on validation pairs, mean over seeds: against gold where that was measured, else
    against labels; notes on files that do not say). It stands in the headers of the models' files; NaN without any.
    """
    found: list[float] = []
    notes = []
    results = run.folder.parents[4]
    stages = [stage for source in run.sources for stage in source.meta.get("stages") or []]
    if origin(results) and any(stage["name"] == "reward_model" for stage in stages):
        notes.append(f"{run.name}: its reward models are at {origin(results)}, so their accuracy is left out")
    for one in dict.fromkeys(stage["fingerprint"] for stage in stages if stage["name"] == "reward_model"):
        state = results / "artifacts" / one / "state"
        for path in sorted([*state.glob("*.safetensors"), *state.glob("*/reward*.safetensors")]):  # of today, of old
            try:
                found += _accuracy(path)
            except BadInput as error:
                notes.append(f"{run.name}: {error}, so the reward model's accuracy is without it")
    return (float(np.mean(found)) if found else math.nan), notes


def _accuracy(path: Path) -> list[float]:
    """The accuracy in a header of safetensors, if it has one. Raises: BadInput: it cannot be read."""
    try:
        with open_plain(path) as file:
            size = int.from_bytes(file.read(8), "little")
            text = file.read(size) if size <= LARGEST_HEADER else b""
        parts = strict_json.parse(text, str(path))["__metadata__"]
        values = strict_json.parse(parts.get("reward", parts.get("about")), str(path))
        one = values.get("gold_accuracy", values.get("label_accuracy"))
    except OSError as error:
        raise RecordError(reason(error)) from error
    except (LookupError, TypeError, AttributeError):
        raise RecordError(f"{path}: its header does not say what it is") from None
    return [float(one)] if isinstance(one, int | float) and 0 <= one <= 1 else []


def best_of_n_kl(n: float) -> float:
    """Upper bound of KL(best-of-n || the model sampled from), nats: log n - (n - 1)/n (Beirami et al. 2024, arXiv
    2401.01879, Theorem 1)."""
    return math.log(n) - (n - 1) / n


@by_task
def _points(material: Material) -> pd.DataFrame:
    found, notes = points(material.records)
    material.notes.extend(notes)
    return found


def of_levels(material: Material, suite: str, task: str) -> Frames:
    of = material.here(_points, suite, task)
    if len(of) and of.loc[of["gold"].notna() | of["proxy"].notna(), TEST].nunique() > 1:
        yield "reward-L_test", of


def of_gains(material: Material, suite: str, task: str) -> Frames:
    yield from _of_gains(_moved(material, suite, task), TEST, "over-optimisation", material)


def of_gains_of_samples(material: Material, suite: str, task: str) -> Frames:
    of = material.here(_points, suite, task)
    if len(of):
        of = of[of["gold"].notna() & of[N].notna() & of[SOFTNESS].isna()]
    yield from _of_gains(of, N, "over-optimisation-N", material)


def _of_gains(of: pd.DataFrame, knob: str, name: str, material: Material) -> Frames:
    if len(of) and of[knob].nunique() > 1 and len(more := gains(of, knob)):
        best = more.drop_duplicates("label").sort_values(["accuracy", "label"], ascending=[False, True])["label"]
        yield name, panels(more, list(best), name, material.notes)


def of_distances(material: Material, suite: str, task: str) -> Frames:
    of = material.here(_points, suite, task)
    if len(of) and len(far := distances(of[of["gold"].notna()], material.notes)) > 1:
        yield "gold-distance", far


def of_compute(material: Material, suite: str, task: str) -> Frames:
    of = material.here(_points, suite, task)
    if len(of) and (known := of["gold"].notna() & of["compute"].notna()).any():
        yield "gold-compute", of[known]


def of_maps(material: Material, suite: str, task: str) -> Frames:
    """Of runs with several step sizes; a note where other knobs are averaged over."""
    moved = _moved(material, suite, task)
    if moved.empty:
        return
    maps = moved[moved["label"].isin([label for label, one in moved.groupby("label") if one[STEP].nunique() > 1])]
    if len(maps):
        maps = panels(maps, material.ordered(maps["label"]), "gold-eps-L_test", material.notes)
        for label, one in maps.groupby("label", observed=True):
            if one.duplicated([STEP, TEST]).any():
                note = f"{task}: cells of {label} in gold-eps-L_test are means over its other knobs"
                material.notes.append(note)
        yield "gold-eps-L_test", maps


def of_lengths(material: Material, suite: str, task: str) -> Frames:
    of = material.here(_points, suite, task)
    if len(of) and of["eos"].notna().any():
        yield "length-eos", of


def _moved(material: Material, suite: str, task: str) -> pd.DataFrame:
    of = material.here(_points, suite, task)
    return of[of["gold"].notna() & of[TEST].notna()] if len(of) else of


def panels(of: pd.DataFrame, labels: list[str], name: str, notes: list[str]) -> pd.DataFrame:
    """The rows of the first PANELS runs of `labels`; a note names the others."""
    if hidden := labels[PANELS:]:
        notes.append(f"{of['task'].iloc[0]}: {name} has panels for {PANELS} of {len(labels)} runs, without "
                     f"{', '.join(hidden)}")  # fmt: skip
    return of[of["label"].isin(labels[:PANELS])]


def distances(gold: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows of `points` that say how far a method went from the SFT model sampled at the same temperature: `distance`
    and `kind`. Rows without such a number are left out, with a note.

    sqrt(KL), of best-of-n by its upper bound, of trained policies as estimated from their samples (a mean below zero is
    the estimator's noise and counts as 0); of VGF the MMD^2 that its particles were carried, which is no KL.
    """
    placed = gold[N].notna() | gold["kl"].notna() | gold["transport"].notna()
    for lacking, why in (
        (gold["temperature"] == 0, "greedy answers (T=0), whose distance from SFT's samples nobody knows"),
        (gold[SOFTNESS].notna(), "choices softer than the best of N (lambda), of which there is no formula"),
    ):
        if len(out := gold[lacking & placed]):
            names = ", ".join(sorted(set(out["label"].astype(str))))
            notes.append(f"{out['task'].iloc[0]}: gold-distance is without {why}: {names}")
    gold = gold[placed & (gold["temperature"] != 0) & gold[SOFTNESS].isna()]
    by_n = gold[gold[N].notna()]
    bounded = by_n.assign(distance=np.sqrt([max(best_of_n_kl(n), 0.0) for n in by_n[N]]), kind="upper bound")
    trained = gold[gold[N].isna() & gold["kl"].notna() & gold["transport"].isna()]
    estimated = trained.assign(distance=np.sqrt(trained["kl"].clip(lower=0.0)), kind="estimate")
    carried = gold[gold["transport"].notna()]
    return pd.concat([bounded, estimated, carried.assign(distance=carried["transport"], kind="transport")])


def _temperature(knobs: Mapping[str, float], run: Run) -> float:
    """That of a setting's samples; NaN where not recorded."""
    given = run.settings.get("test_temperatures")
    only = given[0] if isinstance(given, list) and len(given) == 1 else math.nan
    return float(knobs.get(TEMPERATURE, only if isinstance(only, int | float) else math.nan))


def gains(moved: pd.DataFrame, knob: str) -> pd.DataFrame:
    """What L_test steps (or more samples N) add to gold and to proxy over L_test=0 (N=1), in stds over prompts there:
    `gold_gain`, `proxy_gain`, their intervals, and name (of the run). Lines without that start, and of one point, are
    left out."""
    found = []
    for _, one in lines(moved):
        start = one[one[knob] == START[knob]]
        if len(one) > 1 and len(start) and min(start["gold_spread"].iloc[0], start["proxy_spread"].iloc[0]) > 0:
            zero = start.iloc[0]
            numbers = {
                f"{measure}_gain{end}": one[f"{measure}_gain{end}"] / zero[f"{measure}_spread"]
                for measure in ("gold", "proxy") for end in ("", "_low", "_high")
            }  # fmt: skip
            found.append(one.assign(name=named(one), **numbers))
    return pd.concat(found, ignore_index=True) if found else moved.iloc[:0]


def _gains(rows: pd.DataFrame, start: pd.DataFrame, run: Run) -> dict[str, float]:
    """Of gold and proxy: the mean difference of `rows` from `start`, with an interval over prompts."""
    found: dict[str, float] = {}
    key = ["seed", "episode"]
    for name in ("gold", "proxy"):
        found |= dict.fromkeys((f"{name}_gain", f"{name}_gain_low", f"{name}_gain_high"), math.nan)
        if name in rows and len(start):
            apart = (rows.set_index(key)[name] - start.set_index(key)[name]).dropna()
            prompts = apart.groupby(level="episode").mean().to_numpy()
            if len(prompts):
                low, high = bootstrap(prompts, generator(run.suite, run.task))
                found |= {f"{name}_gain": float(apart.mean()), f"{name}_gain_low": float(low)}
                found[f"{name}_gain_high"] = float(high)
    return found


def _means(rows: pd.DataFrame, run: Run) -> dict[str, float]:
    """MEASURES with their intervals over seeds, and spreads over prompts."""
    found: dict[str, float] = {}
    seeds = rows["seed"].to_numpy()
    for name in MEASURES:
        values = rows[name].to_numpy(float) if name in rows else np.full(len(rows), np.nan)
        known = ~np.isnan(values)
        found |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
        if known.any():
            summary = summarise(values[known], seeds[known], generator(run.suite, run.task))
            found |= {name: summary.mean, f"{name}_low": summary.low, f"{name}_high": summary.high}
    for name in ("gold", "proxy"):
        spread = rows.groupby("seed")[name].std().mean() if name in rows else math.nan
        found[f"{name}_spread"] = float(spread)
    return found
