"""Packages that only some commands need: which extra of the project has them, and how it is installed."""

from __future__ import annotations

from pathlib import Path

EXTRAS = {"torch": "rlhf", "transformers": "rlhf", "tokenizers": "rlhf", "peft": "rlhf", "accelerate": "rlhf",
          "datasets": "rlhf", "huggingface_hub": "rlhf", "trl": "trl",
          "gguf": "local-models",
          "stable_baselines3": "collect", "ray": "ray", "s3fs": "s3", "gcsfs": "gs",
          "tensorboardX": "track", "wandb": "track", "imageio_ffmpeg": "video"}  # fmt: skip
"""What is imported -> the extra that brings it."""
SCHEMES = {"s3": "s3", "gs": "gs"}
"""How a URL of a folder may begin -> the extra that brings what reads it."""

_SOURCE = Path(__file__).resolve().parents[1]


def install(extra: str) -> str:
    """The command that installs one of the project's extras: from the source folder, or beside an installed wheel."""
    if (_SOURCE / "pyproject.toml").exists():
        return f"pip install -c constraints.txt -e '.[{extra}]'"
    return f"pip install 'vgf-bench[{extra}]'"
