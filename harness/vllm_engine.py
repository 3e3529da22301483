"""Rollouts by vLLM (`--set rollout_engine=vllm`), where it is installed: the same tokens in the same records, drawn by
a server of its own kind instead of our loop.

vLLM reads a model from a folder, so the part's weights are written to a temporary one. Every prompt has a seed of its
own, from which vLLM derives those of its samples; draws are not those of `rollout_engine=own`.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.backbones import GLOBAL, save_checkpoint
from methods.core import BadInput
from methods.language.core import derived_seed
from methods.language.tokens import Texts

MEMORY = 0.8  # of the GPU's: our own models share it


def check_vllm() -> None:
    """Raises: BadInput: it is not installed."""
    if not _installed():
        raise BadInput("rollout_engine=vllm needs vllm, which no extra brings: pip install vllm")


def _installed() -> bool:
    try:
        return importlib.util.find_spec("vllm") is not None
    except ValueError:  # a module that was set to None
        return False


class VLLM:
    """Samples of one model, in the model's own precision: what LoRA made is float32, whatever the setting `dtype`."""

    def __init__(self, model: Any, texts: Texts) -> None:
        check_vllm()
        import vllm

        self.texts, self.vllm = texts, vllm
        self.folder = tempfile.TemporaryDirectory(prefix="vllm-")
        with GLOBAL:
            save_checkpoint(Path(self.folder.name), model, texts.tokenizer)
        longest = texts.max_prompt + texts.max_response + 1
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self.engine: Any = vllm.LLM(
            self.folder.name, skip_tokenizer_init=True, dtype=dtype, max_model_len=longest,
            gpu_memory_utilization=MEMORY, enable_prefix_caching=True,
        )  # fmt: skip
        banned = {*texts.banned}
        self.allowed = [token for token in range(texts.size) if token not in banned]

    def __call__(self, prompts: Sequence[Sequence[int]], number: int, temperature: float, seed: int) -> list[list[int]]:
        """See `methods.language.core.Sampler`."""
        texts = self.texts
        asked = [
            self.vllm.SamplingParams(
                n=number, temperature=temperature, seed=derived_seed(seed, i), max_tokens=texts.max_response,
                stop_token_ids=[texts.eos], allowed_token_ids=self.allowed, detokenize=False,
            )
            for i in range(len(prompts))
        ]  # fmt: skip
        tokens = [{"prompt_token_ids": [*prompt]} for prompt in prompts]
        return [self.response(one) for found in self.engine.generate(tokens, asked, use_tqdm=False)
                for one in sorted(found.outputs, key=lambda output: output.index)]  # fmt: skip

    def response(self, output: Any) -> list[int]:
        """With its end of text as the last token, where the model wrote one."""
        ids = [int(token) for token in output.token_ids]
        ended = output.finish_reason == "stop"
        return [*ids, self.texts.eos] if ended and (not ids or ids[-1] != self.texts.eos) else ids
