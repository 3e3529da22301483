"""OGBench's files: downloaded, generated or given, checked, and cut into transitions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from core.errors import BadInput
from tasks.core import DataLocation, Dataset, Provenance, TaskSpec, check_transitions
from tasks.data import actions, download, sources
from tasks.data import files as data_files
from tasks.data.recipes import recipe_of
from tasks.data.series import EVERY, Series, files_of
from tasks.ogbench import collect
from tasks.screen import say, say_once

SOURCES = sources.read(Path(__file__).with_name("sources.csv"))
KINDS = {  # environment -> the kinds of dataset that were published for it
    r"(point|ant)maze-(medium|large|giant|teleport)": ("navigate", "stitch"),
    r"antmaze-(medium|large|teleport)": ("explore",),
    r"humanoidmaze-(medium|large|giant)": ("navigate", "stitch"),
    r"antsoccer-(arena|medium)": ("navigate", "stitch"),
    r"cube-(single|double|triple|quadruple)|scene|puzzle-(3x3|4x4|4x5|4x6)": ("play", "noisy"),
}
VALIDATION = "-val.npz"  # how the names of files of validation episodes end
PLAIN = ("observations", "actions", "terminals")  # columns of every file


class Cut(NamedTuple):
    """A file's episodes as transitions.

    file     observations  s0 s1 s2 | s0 s1 ...     the last state of an episode has no successor,
             actions       a0 a1 a2 | a0 a1 ...     and its action, here a2, leads nowhere
             terminals      0  0  1 |  0  1 ...
    here     (s0 a0 s1) (s1 a1 s2 terminal) | (s0 a0 s1 terminal) ...
    """

    columns: dict[str, np.ndarray]  # the file's own, at the rows that have a successor
    next_observations: np.ndarray
    terminals: np.ndarray  # float32


@dataclass(frozen=True)
class OnOGBenchData:
    """A task that learns from a dataset of OGBench's; what it makes of the file is the subclass's to say."""

    name: str
    episodes: int = 1000  # to generate, if the data are generated; as many as the published files have

    suite: ClassVar[str] = ""

    @property
    def dataset(self) -> str:
        """Its name, e.g. "cube-single-play-v0"."""
        raise NotImplementedError

    @property
    def source(self) -> sources.Source:
        """Where the dataset is downloaded from."""
        return SOURCES[f"{self.dataset}.npz"]

    @property
    def held(self) -> TaskSpec:
        """The shapes of what the data hold."""
        raise NotImplementedError

    @property
    def about_data(self) -> Mapping[str, Any]:
        """What records say of how the file was made use of."""
        return {}

    def _transitions(self, path: Path) -> dict[str, np.ndarray]:
        """The training transitions in a file."""
        raise NotImplementedError

    def load(self, data: str = "auto") -> Dataset:
        """The training transitions.

        `data` "download": OGBench's file, from its host or a mirror, kept in `data_folder()`. "generate":
        `self.episodes` episodes by the benchmark's oracles (play datasets only). "auto": whichever is there; else
        a download; else, where no host answers, generated. Otherwise a path to an NPZ file of OGBench's format, or
        to a folder of such files, which are learned from one after the other.

        Raises:
          BadInput: one line that names what is missing or wrong, and what to do.
        """
        if (folder := data_files.given_folder(data)) is not None:
            return self._series(folder)
        path, origin, details = self._file(data)
        transitions, outside = self._sound(path)
        digest = download.sha256(path)  # last: it pins the file, and only a sound one should be
        details = {**self.about_data, **details}
        if outside:
            details["actions_outside"] = outside._asdict()
        if recipe := recipe_of(path):
            details["recipe"] = recipe
            if origin == "downloaded":  # lies where a download would, and says itself that it is none
                origin = "generated"
                say(f"{path} was generated, not downloaded: {recipe['episodes']} episodes")
        return Dataset(transitions, Provenance(self.dataset, digest, origin, str(path), details))

    def validation(self, training: Dataset) -> Dataset | None:
        """The episodes that were kept back: those of the file `<stem>-val.npz` beside the training file, or beside the
        first of a series. None where there is none (`python -m tasks.fetch --validation` fetches OGBench's).

        Raises: BadInput: the file is not what it should be.
        """
        path = Path(training.provenance.path) if training.series is None else training.series.paths[0]
        beside = path.with_name(f"{path.stem}{VALIDATION}")
        if not data_files.exists(beside):
            return None
        transitions, _ = self._sound(beside)
        origin = training.provenance.origin
        return Dataset(transitions, Provenance(beside.stem, download.sha256(beside), origin, str(beside)))

    def _sound(self, path: Path) -> tuple[dict[str, np.ndarray], actions.Outside | None]:
        """A file's transitions, checked, actions clipped; and how many were outside, if any. Raises: BadInput."""
        with data_files.within_memory(path):
            transitions = self._transitions(path)
            check_transitions(transitions, self.held, str(path))
            transitions["actions"], outside = actions.clipped(transitions["actions"], str(path))
        if outside:
            say_once(actions.told(outside, str(path)))
        return transitions, outside

    def _series(self, folder: Path) -> Dataset:
        """The files of a folder, one in memory at a time: OGBench's 100M sets are a hundred files of a million rows."""
        paths = files_of(folder)
        counts = [self._count(path) for path in paths]  # looks at each before hours of training
        series = Series(paths, lambda path: self._sound(path)[0])
        first = series.transitions(0)
        digests = [download.sha256(path) for path in paths]
        whole = hashlib.sha256(" ".join((*digests, f"every {EVERY}")).encode()).hexdigest()
        held = {"transitions": sum(rows for rows, _ in counts), "episodes": sum(ends for _, ends in counts)}
        details = {**self.about_data, **held, "files": [path.name for path in paths], "updates_a_file": EVERY}
        return Dataset(first, Provenance(self.dataset, whole, "given", str(folder), details), series=series)

    def _count(self, path: Path) -> tuple[int, int]:
        """(transitions, episodes) of a file, by its headers and its terminals. Raises: BadInput: it is of another
        shape."""
        known = data_files.shapes(path)
        for column, width in self._plain.items():
            if column not in known:
                raise BadInput(f"{path}: column {column!r} is missing")
            expected = (*known["observations"][:1], *width)
            if known[column] != expected:
                raise BadInput(f"{path}: {column} has shape {known[column]}, expected {expected}")
        ends = data_files.float32(data_files.npz(path, ["terminals"])["terminals"], f"{path}: terminals")
        if not len(ends) or ends[-1] <= 0.5:
            raise BadInput(f"{path} breaks off within an episode: its last terminal is 0")
        episodes = int((ends > 0.5).sum())
        return len(ends) - episodes, episodes

    def sized(self, episodes: int) -> Self:
        return replace(self, episodes=episodes)

    @property
    def _kept(self) -> tuple[Path, Path]:
        """Where the downloaded and the generated file are kept."""
        generated = data_folder() / "generated" / f"{self.dataset}-{self.episodes}-episodes.npz"
        return data_folder() / f"{self.dataset}.npz", generated

    def data_location(self, data: str = "auto") -> DataLocation:
        """What `load(data)` would read, fetch or make; see `tasks.core.Task`."""
        downloaded, generated = self._kept
        if data in ("auto", "download") and data_files.exists(downloaded):
            return DataLocation(f"downloaded: {downloaded}", True)
        if data in ("auto", "generate") and data_files.exists(generated):
            return DataLocation(f"generated: {generated}", True)
        if data == "generate":
            self._check_can_generate()
            return DataLocation(f"to generate: {self.episodes} episodes{self._others()}", False)
        if data in ("auto", "download"):
            return DataLocation(f"to download from {self.source.host}{self._others()}", False)
        if (folder := data_files.given_folder(data)) is not None:
            count = len(files_of(folder))
            return DataLocation(f"given: {data}, {count} file{'s' * (count > 1)}", True)
        self._given(data)
        return DataLocation(f"given: {data}", True)

    def _others(self) -> str:
        """A word on generated files of other sizes, where there are any."""
        folder, sizes = self._kept[1].parent, re.compile(rf"{re.escape(self.dataset)}-(\d+)-episodes\.npz")
        found = sorted(int(match[1]) for path in folder.glob("*.npz") if (match := sizes.fullmatch(path.name)))
        return f" (generated earlier: {', '.join(map(str, found))} episodes)" if found else ""

    def ready(self, data: str = "auto") -> Path:
        """Downloads or generates the file that `load(data)` reads; see `tasks.core.Task`. One that is there already is
        read to its end and compared with what it was when it was first used."""
        if (folder := data_files.given_folder(data)) is not None:
            for path in files_of(folder):
                download.check_npz(path)
                download.sha256(path)
            return folder
        path, _, _ = self._file(data)
        download.check_npz(path)
        download.sha256(path)
        return path

    def _check_can_generate(self) -> None:
        if self.dataset not in collect.DATASETS:
            raise BadInput(f"{self.dataset} cannot be generated (its behaviour is not scripted in the package); "
                           "use --data download or --data PATH")  # fmt: skip

    @staticmethod
    def _given(data: str) -> Path:
        return data_files.given(data, "auto, download, generate, an NPZ file or a folder of them")

    def _file(self, data: str) -> tuple[Path, str, dict[str, Any]]:
        """Path, origin and further details of the file that `data` asks for, once it is there."""
        downloaded, generated = self._kept
        can_generate = self.dataset in collect.DATASETS
        choice = data
        if data == "auto":
            choice, why = "download", "neither downloaded nor generated yet: trying to download it"
            if data_files.exists(downloaded):
                why = f"downloaded earlier: using {downloaded}"
            elif data_files.exists(generated):
                choice, why = "generate", f"not downloaded, but generated earlier: using {generated}"
            say(f"{self.dataset}: {why}")
        if choice == "download":
            try:
                if not data_files.exists(downloaded):
                    sources.fetch(self.source, downloaded, download.check_npz)
                return downloaded, "downloaded", {"url": download.had_from(downloaded)}
            except download.MissingDownload as error:
                advice = "use --data generate or --data PATH" if can_generate else "use --data PATH"
                if data != "auto" or not can_generate:
                    raise download.MissingDownload(f"{error}; {advice}") from error
                say(f"{error}; generating {self.episodes} episodes instead")
                choice = "generate"
        if choice == "generate":
            self._check_can_generate()
            collect.collect(self.dataset, self.episodes, 0, None, generated)
            return generated, "generated", {}
        return self._given(data), "given", {}

    @staticmethod
    def _cut(path: Path, expected: Mapping[str, tuple[int, ...]]) -> Cut:
        """The transitions of a file with columns of the shapes `[t, *expected]`."""
        file = _read(path, expected)
        last = file["terminals"] > 0.5
        if not last[-1:].all():
            raise BadInput(f"{path} breaks off within an episode: its last terminal is 0")
        start = np.flatnonzero(~last)
        columns = {column: values[start] for column, values in file.items()}
        return Cut(columns, file["observations"][start + 1], last[start + 1].astype(np.float32))

    @property
    def _plain(self) -> dict[str, tuple[int, ...]]:
        """The columns of every file -> shape of a row."""
        spec = self.held
        return dict(zip(PLAIN, ((spec.obs_dim,), (spec.action_dim,), ()), strict=True))


def data_folder() -> Path:
    """Where datasets are kept: OGBench's own folder, or what `OGBENCH_DATA_DIR` says."""
    return data_files.folder("OGBENCH_DATA_DIR")


def _read(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The columns of an NPZ file, float32 but for the button states, of the shapes `[t, *expected]`."""
    columns = data_files.npz(path, expected)
    if missing := [column for column in expected if column not in columns]:
        raise BadInput(f"{path}: column {missing[0]!r} is missing")
    rows = len(columns["observations"]) if columns["observations"].ndim else 0
    for column, width in expected.items():
        values = columns[column]
        if values.dtype.kind not in "biuf":
            raise BadInput(f"{path}: {column} holds no numbers")
        if values.shape != (rows, *width):
            raise BadInput(f"{path}: {column} has shape {values.shape}, expected {(rows, *width)}")
        narrow = data_files.float32(values, f"{path}: {column}")
        columns[column] = values if column == "button_states" else narrow
    actions.check_scale(columns["actions"], str(path))
    return columns
