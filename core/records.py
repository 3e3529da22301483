"""The shapes of the records (`results/README.md`), and the one place where they are read and checked.

Of run.json there are two formats: 2, a folder a seed, and that of before (1), a folder a run with all its seeds. They
are told apart by `check_run`, and nowhere else.

A file that is not of its shape becomes one line, whoever reads it: harness, analysis or judge. Keys that stand here are
checked wherever they are; further keys pass. Names that may become part of a path are checked for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic needs its form of it below Python 3.12

from core import strict_json
from core.errors import BadInput
from core.text import printable

SCHEMA = 1
LONGEST_NAME = 200  # bytes: file systems take 255
FOREIGN = frozenset('<>"|?*$`')
"""Characters that shells, other file systems, HTML, Markdown or TeX take for their own."""
T = TypeVar("T")
RELEASED = "records.parquet"
"""The file that tells the folder of a release from one of results."""


def file_name(name: str) -> str:
    """The name, if it can be one piece of a path, a cell of a table and a label of a figure.

    Raises:
      ValueError: it is empty, too long, "." or "..", holds a slash, a character that does not print or one of FOREIGN,
        or begins as an option or as what a spreadsheet takes for a formula.
    """
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= LONGEST_NAME or name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError("cannot be part of a file's name")
    if not name.isprintable():
        raise ValueError("holds characters that do not print")
    if found := FOREIGN.intersection(name):
        raise ValueError(f"holds {min(found)}")
    if name[0] in "=+-@":
        raise ValueError(f"begins with {name[0]}")
    return name


Name = Annotated[str, AfterValidator(file_name)]
NameOrNone = Annotated[str, AfterValidator(lambda name: name and file_name(name))]
Number = Annotated[int, Field(ge=0, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Amount

_STRICT = ConfigDict(strict=True, extra="allow")


@with_config(_STRICT)
class OnlineRecord(TypedDict):
    """Of a run that goes on online."""

    continues: str
    from_step: Number
    steps: Number


@with_config(_STRICT)
class DatasetRecord(TypedDict):
    """Which data a run used."""

    name: NotRequired[str]
    sha256: NotRequired[str]
    origin: NotRequired[str]
    path: NotRequired[str]
    transitions: NotRequired[Number]
    details: NotRequired[dict[str, Any]]


@with_config(_STRICT)
class StageReference(TypedDict):
    """A stage that a run is made of."""

    name: str
    fingerprint: Name
    steps: Number
    origin: NotRequired[str]
    seconds: NotRequired[Seconds | None]
    git: NotRequired[dict[str, Any] | None]
    code: NotRequired[dict[str, str] | None]  # digest of every source file behind it
    versions: NotRequired[dict[str, str] | None]


@with_config(_STRICT)
class KnobRecord(TypedDict):
    """What a method says of one of its knobs."""

    name: Name
    label: str
    unit: str
    path: NotRequired[bool]


@with_config(_STRICT)
class CostRecord(TypedDict):
    """What an action costs at a setting."""

    setting: dict[str, Finite]
    passes: Amount
    gradients: Amount


@with_config(_STRICT)
class InferenceRecord(TypedDict):
    """What a method declares of acting: `methods/inference.py`."""

    knobs: list[KnobRecord]
    costs: list[CostRecord]


class Recorded(TypedDict):
    """What run.json says in either format."""

    suite: Name
    task: Name
    method: Name
    protocol: NotRequired[NameOrNone]  # "" where the suite has no names for protocols
    fingerprint: Name
    status: Literal["running", "finished", "interrupted", "failed"]
    error: NotRequired[str | None]
    config: dict[str, Any]
    knobs: list[Name]
    inference: NotRequired[InferenceRecord]
    unit: NotRequired[str]  # of the score, on an axis
    share: NotRequired[bool]  # whether the score is a share of a win, which is read in percent
    episodes: Number
    evaluation_steps: NotRequired[list[Number]]
    dataset: NotRequired[DatasetRecord]
    stages: NotRequired[list[StageReference]]
    wall_clock_s: NotRequired[dict[str, Seconds]]
    versions: NotRequired[dict[str, str]]
    git: NotRequired[dict[str, Any]]
    code: NotRequired[dict[str, str]]
    code_later: NotRequired[dict[str, str]]  # of files that were other ones when the run was gone on with
    device: NotRequired[dict[str, Any]]
    task_options: NotRequired[dict[str, str]]
    online: NotRequired[OnlineRecord | None]
    created: NotRequired[str]
    updated: NotRequired[str]


@with_config(_STRICT)
class RunRecord(Recorded):
    """run.json of format 1, in the run's folder: of all its seeds."""

    schema: Literal[1]
    seeds: list[Seed]


@with_config(_STRICT)
class SeedRecord(Recorded):
    """run.json of format 2, in a seed's folder below the run's: status, times and evaluations are that seed's own."""

    schema: NotRequired[Literal[1]]
    format: Literal[2]
    seed: Seed


@with_config(_STRICT)
class StageRecord(TypedDict):
    """stage.json of an artefact."""

    finished: bool
    step: Number
    identity: dict[str, Any]
    seconds: NotRequired[Seconds]
    trained_by: NotRequired[str]  # the run that did
    git: NotRequired[dict[str, Any] | None]
    code: NotRequired[dict[str, str] | None]
    code_later: NotRequired[dict[str, str]]  # of files that were other ones when the lane was gone on with
    device: NotRequired[dict[str, Any] | None]
    device_later: NotRequired[dict[str, Any]]  # that the lane was gone on with on
    versions: NotRequired[dict[str, str] | None]
    adopted_from: NotRequired[str]
    files: NotRequired[dict[str, str]]  # SHA-256 of every file of the state, by its path there
    batch: NotRequired[list[Name]]  # fingerprints of the lanes that were begun side by side


@with_config(_STRICT)
class ModelSize(TypedDict):
    """Of the settings of a language stage: the model that it began as ("tiny": one of this size, made here)."""

    model: str
    layers: Number
    width: Number
    heads: Number


@with_config(_STRICT)
class ModelStage(TypedDict):
    """The identity of a language stage that trained a model."""

    stage: str
    task: str
    data: str
    seed: Seed
    config: ModelSize


@with_config(_STRICT)
class VerdictsRecord(TypedDict):
    """verdicts-<judge>.json."""

    rows: Number
    responses: str  # SHA-256 of the texts that were judged
    episodes: NotRequired[Number]
    judge: NotRequired[str]
    kind: NotRequired[str]
    model: NotRequired[str]
    template: NotRequired[str]  # what a server was asked with
    weights: NotRequired[list[str]]  # of a reward model: SHA-256 of its files
    tensors: NotRequired[list[str]]  # of what they hold, see `core.checkpoints.tensors`
    contents: NotRequired[str]  # SHA-256 of its folder, as stages that began as it are known by; "" of no folder
    stage: NotRequired[str]  # the fingerprint of the stage that it was exported of, as its checkpoint.json says
    optimised: NotRequired[bool]  # whether it is one that the run had to do with


def check(value: Any, shape: type[T], where: str) -> T:
    """The value, if it is of that shape (nothing is converted).

    Raises:
      BadInput: it is not; says what is wrong where, beginning with `where`.
    """
    try:
        return _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = _short(".".join(map(str, first["loc"])), 120)  # keys that a stranger wrote are in it
        shown = _short(repr(first["input"]), 60)
        found = "" if first["type"] == "missing" else f" (it is {shown})"
        what = f"{place}: " if place else ""
        message = printable(f"{what}{first['msg'].removeprefix('Value error, ')}{found}")
        raise BadInput(f"{where}: {message}") from None


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read(path: Path, shape: type[T]) -> T:
    """The record in a file, checked.

    Raises:
      BadInput: it is no JSON, or of another shape; one line that names the file and the key.
      OSError: it cannot be read; FileNotFoundError where there is none.
    """
    return check(strict_json.read(path), shape, str(path))


def check_run(value: Any, where: str) -> RunRecord | SeedRecord:
    """The content of a run.json, if it is of the format that it says it is of. Raises: BadInput, as `check`."""
    if isinstance(value, dict) and "format" in value:
        return check(value, SeedRecord, where)
    return check(value, RunRecord, where)


def read_run(path: Path) -> RunRecord | SeedRecord:
    """A run.json of either format, checked. Raises: as `read`."""
    return check_run(strict_json.read(path), str(path))


def seeds_of(record: RunRecord | SeedRecord) -> tuple[int, ...]:
    """The seeds that a run.json speaks of."""
    known: Any = record
    return (known["seed"],) if "format" in known else tuple(known["seeds"])


def run_folder(folder: Path, record: RunRecord | SeedRecord) -> Path:
    """The folder of the run whose run.json lies in `folder`: of format 2, the one above."""
    return folder.parent if "format" in record else folder


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(shape: type[T]) -> TypeAdapter[T]:
    if shape not in _ADAPTERS:
        _ADAPTERS[shape] = TypeAdapter(shape)
    return _ADAPTERS[shape]
