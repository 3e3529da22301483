"""`python -m analysis.release results/ --out DIR`: records as Parquet that pandas reads in one line, with a data card.

The tables are recomputed from the records. One more file holds the records themselves, so that every command of
`analysis` reads DIR in the place of `results/`. Results of other code bases are not ours to release and stay behind.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.release:app")

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis.missing import again
from analysis.notes import tell
from analysis.output import folder, markdown, of_records, prepare, say, short
from analysis.query import Asked, Methods, Query, Runs
from analysis.records import packed
from analysis.records.files import RecordError
from analysis.records.load import Records, only
from analysis.records.packed import SUMS, without_places
from analysis.records.protocols import EVERY
from analysis.records.runs import Run
from core.errors import BadInput, reason
from core.files import digest, draft, write_text

CARD = "README.md"
EPISODES, CURVES, RUNS = "episodes.parquet", "curves.parquet", "runs.parquet"
FILES = (EPISODES, CURVES, RUNS, packed.NAME, CARD)
OF_A_RUN = ("suite", "protocol", "task", "method", "label", "fingerprint")
MEANS = ("score", "return", "length", "success")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    out: Annotated[Path, typer.Option(parser=folder, help="A folder: a new one, or that of a release.")] = Path(
        "release"
    ),
    title: Annotated[str, typer.Option(help="Of the data card.")] = "Benchmark records",
    licence: Annotated[str, typer.Option(help="Of the numbers, as Hugging Face spells it: cc-by-4.0.")] = "unknown",
    methods: Methods = None,
    which: Runs = None,
    protocol: Asked = None,
) -> None:
    """Episodes, curves and runs as Parquet, a data card and hashes: OUT/."""
    prepare(out)
    foreign = sorted(path.name for path in out.iterdir() if path.name not in (*FILES, SUMS)) if out.is_dir() else []
    if foreign and not packed.is_packed(out):
        raise RecordError(f"--out {out}: holds {foreign[0]}, which is of no release; name a new folder")
    query = Query.of(methods, which, protocol)
    records = query.load(results, protocol=EVERY)
    records = only(records, [run for run in records.runs if not run.elsewhere], {}, records.order)
    if not records.runs:
        raise RecordError(f"{records.root}: has no runs of our own to release")
    try:
        notes = write(records, out, title, licence)
    except OSError as error:
        raise BadInput(f"--out {out}: {reason(error)}") from None
    for name in (*FILES, SUMS):
        say(f"{out / name} ({(out / name).stat().st_size / 1e6:.2f} MB)")
    tell([*records.notes, *notes], records)


def write(records: Records, out: Path, title: str, licence: str) -> list[str]:
    """Writes a release; notes on what stays behind. The hashes are taken away first and come last: a folder with hashes
    is whole.

    Raises: OSError: it cannot be written. RecordError: a record cannot be read.
    """
    (out / SUMS).unlink(missing_ok=True)
    frames = {EPISODES: episodes(records), CURVES: curves(records), RUNS: runs(records)}
    for name, frame in frames.items():
        with draft(out / name) as target:
            frame.to_parquet(target, index=False, compression="zstd")
    large = packed.pack(records.root, records.runs, out / packed.NAME)
    write_text(out / CARD, card(records, frames, title, licence))
    write_text(out / SUMS, "".join(f"{digest(out / name)}  {name}\n" for name in FILES))
    return [f"{name}: larger than {packed.LARGEST >> 20} MiB, left behind" for name in large]


def episodes(records: Records) -> pd.DataFrame:
    """A row an episode: what `Records.episodes` has, and the protocol."""
    rows = _with_protocol(records, records.episodes)
    words = rows.select_dtypes("category").columns
    return rows.assign(**{name: rows[name].cat.remove_unused_categories() for name in words})  # also names of others


def curves(records: Records) -> pd.DataFrame:
    """A row a seed, evaluation and setting: means over its episodes, and how many there are."""
    rows = episodes(records)
    rows = rows[rows["complete"]]
    keys = [*OF_A_RUN, "status", "seed", "phase", "step", *records.knobs, "setting"]
    groups = rows.groupby(keys, observed=True, sort=True, dropna=False)
    return groups[list(MEANS)].mean().assign(episodes=groups.size()).reset_index()


def runs(records: Records) -> pd.DataFrame:
    """A row a run: what it was made of. `seeds`: numbers of those with rows, apart by blanks; `config`: JSON."""
    rows = list[dict[str, Any]]()
    for run in records.runs:
        git, data, device = (run.meta.get(name) or {} for name in ("git", "dataset", "device"))
        rows.append(
            {"suite": run.suite, "protocol": run.protocol, "task": run.task, "method": run.method, "label": run.label}
            | {"fingerprint": run.fingerprint, "status": run.status, "seeds": " ".join(map(str, run.seeds))}
            | {"steps": int(records.episodes["step"].iloc[run.rows].max()) if run.rows.stop > run.rows.start else 0}
            | {"config": without_places(json.dumps(run.config, sort_keys=True)), "dataset": str(data.get("name") or "")}
            | {"dataset_origin": str(data.get("origin") or ""), "dataset_sha256": str(data.get("sha256") or "")}
            | {"commit": str(git.get("sha") or ""), "changed_since": bool(git.get("dirty"))}
            | {"device": str(device.get("kind") or ""), "versions": json.dumps(run.meta.get("versions") or {})}
            | {"seconds": float(sum((run.meta.get("wall_clock_s") or {}).values()))}
            | {"command": without_places(again(Path("results"), run))}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _with_protocol(records: Records, rows: pd.DataFrame) -> pd.DataFrame:
    names = sorted({run.protocol for run in records.runs})
    index = pd.Series(-1, index=range(len(rows)), dtype="int16")
    for run in records.runs:
        index.iloc[run.rows] = names.index(run.protocol)
    column = pd.Categorical.from_codes(index, names)
    place = list(rows.columns).index("suite") + 1
    return pd.concat([rows.iloc[:, :place], pd.DataFrame({"protocol": column}), rows.iloc[:, place:]], axis=1)


def card(records: Records, frames: dict[str, pd.DataFrame], title: str, licence: str) -> str:
    """The data card, with the header that Hugging Face reads."""
    environment = Environment(
        loader=PackageLoader("analysis", ""), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    words = {
        "title": markdown(title), "licence": json.dumps(licence), "name": json.dumps(title), "files": FILES[:3],
        "rows": {name: len(frame) for name, frame in frames.items()}, "knobs": records.knobs,
        "table": list(_table(records.runs)), "tasks": len({(run.suite, run.task) for run in records.runs}),
        "methods": len({run.method for run in records.runs}), "until": _until(records.runs),
        "unfinished": [markdown(f"{run.name}: {run.unfinished or run.status}")
                       for run in records.runs if run.status != "finished"],
        "commits": sorted({str((run.meta.get("git") or {}).get("sha") or "unknown") for run in records.runs}),
        "data": sorted({_data(run) for run in records.runs}), "one_in": _smallest(records),
        "share": any(run.suite in ("tldr", "hh") for run in records.runs),
    }  # fmt: skip
    return without_places(environment.get_template("release.md.j2").render(words))


def _table(runs: Sequence[Run]) -> Iterator[tuple[str, str, str, str, str]]:
    """(suite, protocol, task, label, seeds) of each run, as Markdown."""
    for run in sorted(runs, key=lambda run: (run.suite, run.protocol, run.task, run.label)):
        of = f"{len(run.seeds)} of {len(run.meant)}" if len(run.seeds) < len(run.meant) else str(len(run.seeds))
        yield tuple(map(markdown, (run.suite, run.protocol or "-", short(run.task), run.label, of)))  # type: ignore[misc]


def _data(run: Run) -> str:
    data = run.meta.get("dataset") or {}
    words = (data.get("name"), data.get("origin"), f"SHA-256 {data['sha256']}" if data.get("sha256") else "")
    return markdown(", ".join(str(word) for word in words if word) or "unknown")


def _until(runs: Sequence[Run]) -> str:
    """The day of the last record, so that the same records make the same card."""
    return max(str(source.meta.get("updated") or "")[:10] for run in runs for source in run.sources)


def _smallest(records: Records) -> tuple[int, int]:
    """Seeds of a run, at least and at most."""
    counts = [len(run.seeds) for run in records.runs]
    return min(counts), max(counts)
