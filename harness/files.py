"""What a checkpoint that stages start from holds, for their identity: a folder's files, or a commit of the hub."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from core import checkpoints
from core.files import expanded
from methods.core import BadInput
from tasks import SHIPPED, shipped
from tasks.language import local


class Place(NamedTuple):
    """Where a checkpoint lies, as transformers takes it."""

    name: str  # a folder, or a hub's
    revision: str | None  # the hub's commit; None of a folder


def located(path: str) -> Place:
    """Of "shipped:NAME", "local:NAME", a folder, or a hub's "OWNER/NAME[@REVISION]", whose revision is looked up: in
    the hub's cache where there is no network.

    Raises:
      BadInput: the hub did not give it, or a package's model is not here yet.
    """
    if path.startswith(SHIPPED):
        return Place(str(shipped(path)), None)
    if path.startswith(local.SCHEME):
        return Place(str(local.place(path)), None)
    folder = str(expanded(Path(path)))  # which no shell does after "="
    if Path(folder).exists() or path.startswith(("/", ".", "~")):
        return Place(folder, None)
    name, _, revision = path.partition("@")
    return Place(name, _commit(name, revision or "main"))


@cache
def _commit(name: str, revision: str) -> str:
    """The hub's commit that a branch, tag or beginning of a commit stands for."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as error:  # no network, no such name, no right to it: of libraries that change under the hub's
        reason = " ".join(str(error).split())[:200]
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:
        cached = None
    if not isinstance(cached, str):
        raise BadInput(f"model {name!r} is no folder here, and the model hub did not give it: {reason}")
    return Path(cached).parent.name


def contents(path: str) -> str:
    """SHA-256 of a folder's weights and settings, by name, read again if they changed; "NAME@COMMIT" of a hub's.

    Raises:
      BadInput: the folder holds no weights in safetensors, the one format that is read, or the hub did not give it.
    """
    place = located(path)
    if place.revision:
        return f"{place.name}@{place.revision}"
    if not (found := checkpoints.whole(Path(place.name))):
        raise BadInput(f"{path}: no such folder with a model in it (config.json, *.safetensors, tokenizer.json)")
    return found
