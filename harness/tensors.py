"""Parts of language stages in safetensors files: their tensors, and a line of JSON in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from core import strict_json
from methods.core import BadInput
from methods.language.core import Part

_BETWEEN = "/"  # of a part's name and a tensor's


class TensorFormat:
    """See `harness.store.Format`."""

    def write(self, path: Path, parts: Mapping[str, Part]) -> None:
        tensors = {
            f"{name}{_BETWEEN}{one}": tensor for name, part in parts.items() for one, tensor in part.tensors.items()
        }
        save_file(tensors, path, metadata={name: json.dumps(part.about) for name, part in parts.items()})

    def read(self, path: Path) -> dict[str, Part]:
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        with safe_open(path, "pt") as file:
            about = {name: strict_json.parse(text, "its header") for name, text in (file.metadata() or {}).items()}
            for key in file.keys():  # noqa: SIM118  (no mapping)
                name, _, one = key.partition(_BETWEEN)
                tensors.setdefault(name, {})[one] = file.get_tensor(key)
        if not all(isinstance(one, dict) for one in about.values()) or tensors.keys() - about.keys():
            raise BadInput("its header is not as it should be")
        return {name: Part(tensors.get(name, {}), about[name]) for name in about}

    def same(self, one: Mapping[str, Part], other: Mapping[str, Part]) -> bool:
        return one.keys() == other.keys() and all(
            part.tensors.keys() == other[name].tensors.keys()
            and all(_bits(tensor) == _bits(other[name].tensors[key]) for key, tensor in part.tensors.items())
            for name, part in one.items()
        )


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
