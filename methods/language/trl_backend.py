"""SFT, reward model and DPO trained by TRL instead (`backend=trl`), from the same tokens: a cross-check of our losses.

TRL trains a stage in one go, so such a stage is one step: its losses are not logged, and what is interrupted begins
anew. Its trainers insist on a folder, which is a temporary one here and stays empty.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from core.extras import install
from methods.core import BadInput
from methods.language.core import Context, LanguageConfig, Part, derived_seed
from methods.language.models import adapted, as_classifier, causal, merged, reward_from, reward_of, weights
from methods.language.scoring import validated
from methods.language.tokens import finished
from methods.language.training import BETAS, CLIP_NORM, WEIGHT_DECAY, steps_of, without_dropout


class TRLJob:
    """A stage in TRL's hands. Subclasses make the trainer."""

    total, alone = 1, True  # accelerate's state is the process's
    name = ""

    def __init__(self, context: Context, config: Any, steps: int, batch_size: int, learning_rate: float) -> None:
        self.context, self.config = context, config
        if importlib.util.find_spec("trl") is None:
            raise BadInput(f"backend=trl needs trl: {install('trl')}")
        self.folder = tempfile.TemporaryDirectory(prefix="trl-")
        if config.lora_rank and self.name != "sft":
            raise BadInput(f"{self.name}: with backend=trl all weights are trained, so lora_rank must be 0")
        on_cpu = context.device.type == "cpu"
        fits = config.micro_batch or batch_size
        micro = next(size for size in range(min(fits, batch_size), 0, -1) if batch_size % size == 0)
        self.arguments: dict[str, Any] = {
            "output_dir": self.folder.name, "max_steps": steps, "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": batch_size // micro,
            "learning_rate": learning_rate, "lr_scheduler_type": config.schedule,
            "warmup_steps": round(config.warm_up * steps),
            "adam_beta1": BETAS[0], "adam_beta2": BETAS[1], "weight_decay": WEIGHT_DECAY, "max_grad_norm": CLIP_NORM,
            "seed": context.seed, "data_seed": context.seed, "use_cpu": on_cpu, "bf16": False, "report_to": [],
            "save_strategy": "no",
            "gradient_checkpointing": config.gradient_checkpointing, "logging_strategy": "no", "disable_tqdm": True,
            "dataloader_pin_memory": not on_cpu, "max_length": None,
        }  # fmt: skip
        torch.manual_seed(derived_seed(context.seed, self.name))
        self.trainer = self.made()
        without_dropout(self.trainer.model)

    def made(self) -> Any:
        """The trainer."""
        raise NotImplementedError

    def batch_loss(self, rows: Sequence[int]) -> float:
        """TRL's loss on these rows of the training data, before any step."""
        model = self.trainer.model.eval()
        batch = self.trainer.data_collator([self.trainer.train_dataset[i] for i in rows])
        return float(self.trainer.compute_loss(model, batch).detach())

    def run(self, first: int, count: int) -> dict[str, float]:
        del first, count
        return {f"{self.name}/loss": float(self.trainer.train().training_loss)}

    def snapshot(self) -> Part:
        return Part({}, {})

    def restore(self, kept: Part) -> None:
        del kept

    def parts(self) -> dict[str, Part]:
        raise NotImplementedError

    def processing(self) -> Any:
        """A tokenizer of its own, as trainers change it, with padding that is not the end of text."""
        tokenizer = copy.deepcopy(self.context.texts.tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.context.texts.pad)
        return tokenizer


def _rows(rows: Sequence[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(list(rows))


class TRLSFT(TRLJob):
    name = "sft"

    def __init__(self, context: Context, config: LanguageConfig) -> None:
        rows = len(context.texts.examples("train")) if config.sft_epochs else 0
        steps = steps_of(config.sft_epochs, config.sft_steps, rows, config.sft_batch_size)
        super().__init__(context, config, steps, config.sft_batch_size, config.sft_learning_rate)

    def made(self) -> Any:
        from trl import SFTConfig, SFTTrainer

        data = [
            {"input_ids": [*t.prompt, *t.response], "completion_mask": [0] * len(t.prompt) + [1] * len(t.response)}
            for t, _ in self.context.texts.examples("train")
        ]
        model = adapted(self.context.models.fresh(), self.config.lora_rank)
        return SFTTrainer(model, SFTConfig(**self.arguments, completion_only_loss=True), train_dataset=_rows(data),
                          processing_class=self.processing())  # fmt: skip

    def parts(self) -> dict[str, Part]:
        return {"sft": weights(merged(self.trainer.model))}


class TRLReward(TRLJob):
    name = "reward"

    def __init__(self, context: Context, config: LanguageConfig) -> None:
        rows = len(context.texts.preferences("train")) if config.reward_epochs else 0
        steps = steps_of(config.reward_epochs, config.reward_steps, rows, config.reward_batch_size)
        super().__init__(context, config, steps, config.reward_batch_size, config.reward_learning_rate)

    def made(self) -> Any:
        from trl import RewardConfig, RewardTrainer

        eos = self.context.texts.eos
        data = [
            {"chosen_ids": [*prompt, *finished(chosen, eos)], "rejected_ids": [*prompt, *finished(rejected, eos)]}
            for (prompt, chosen, rejected), _ in self.context.texts.preferences("train")
        ]
        try:
            model = as_classifier(reward_from(causal(self.context, "sft")), self.context.texts.pad)
        except BadInput as error:
            raise BadInput(f"backend=trl: {error}; backend=own trains one") from error
        return RewardTrainer(model, RewardConfig(**self.arguments), train_dataset=_rows(data),
                             processing_class=self.processing())  # fmt: skip

    def parts(self) -> dict[str, Part]:
        model = reward_of(self.trainer.model).eval()
        return {"reward": weights(model, **validated(model, self.context))}


class TRLDPO(TRLJob):
    """Its settings are a `methods.language.dpo.DPOConfig`."""

    name = "dpo"

    def __init__(self, context: Context, config: Any) -> None:
        super().__init__(context, config, config.steps, config.batch_size, config.learning_rate)

    def made(self) -> Any:
        from trl import DPOConfig as Arguments
        from trl import DPOTrainer

        data = [
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
            for (prompt, chosen, rejected), _ in self.context.texts.preferences("train")
        ]

        class FromTokens(DPOTrainer):  # SFT's and rewards' trainers know tokens when they see them, DPO's does not
            def _prepare_dataset(self, dataset: Any, *others: Any) -> Any:
                del others
                return dataset

        # without a reference of its own, TRL would take the policy's hub name for it
        return FromTokens(causal(self.context, "sft"), ref_model=causal(self.context, "sft"),
                          args=Arguments(**self.arguments, beta=self.config.beta), train_dataset=_rows(data),
                          processing_class=self.processing())  # fmt: skip

    def parts(self) -> dict[str, Part]:
        return {"policy": weights(merged(self.trainer.model))}
