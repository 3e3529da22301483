"""Gradient training of language models: batches keyed by the step, AdamW, snapshots that resume exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.language.core import Context, LanguageConfig, Part, derived_seed
from methods.language.heads import wide

CLIP_NORM = 1.0
BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.01


def steps_of(epochs: float, steps: int, rows: int, batch_size: int) -> int:
    """Gradient steps of so many passes over the rows, the last batch whole; `steps` where none are asked for."""
    return max(1, math.ceil(epochs * rows / batch_size)) if epochs else steps


class NotFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite."""


class Training:
    """A job of gradient steps on some modules. Subclasses bring `loss`."""

    alone = False

    def __init__(
        self, context: Context, config: LanguageConfig, name: str, modules: dict[str, nn.Module], steps: int,
        batch_size: int, learning_rate: float, rows: int,
    ) -> None:  # fmt: skip
        """`rows`: of the data that batches are drawn from."""
        self.context, self.config, self.name, self.modules, self.total = context, config, name, modules, steps
        self.batch_size, self.learning_rate, self.rows = batch_size, learning_rate, rows
        named = ((name, *one) for name, module in modules.items() for one in module.named_parameters())
        self.trained = {f"{module}.{name}": weight for module, name, weight in named if weight.requires_grad}
        every = [weight for module in modules.values() for weight in module.parameters()]
        # below adapters that were merged lie others, which a pass in bfloat16 would round away
        self.exact = any(not weight.requires_grad and weight.dtype == torch.float32 for weight in every)
        matrices = [weight for weight in self.trained.values() if weight.ndim > 1]
        others = [weight for weight in self.trained.values() if weight.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=learning_rate, betas=BETAS
        )

    def loss(self, indices: Sequence[int], step: int) -> tuple[Tensor, dict[str, float]]:
        """Of these rows, and what to report."""
        raise NotImplementedError

    def weight(self, indices: Sequence[int]) -> float:
        """What the loss of these rows counts in that of a batch: as many as it is the mean of."""
        return len(indices)

    def indices(self, step: int) -> list[int]:
        """Rows of the batch of a step, from 1: a fresh permutation every epoch, whatever was done before."""
        chosen: list[int] = []
        first = (step - 1) * self.batch_size
        for epoch in range(first // self.rows, (first + self.batch_size - 1) // self.rows + 1):
            generator = torch.Generator().manual_seed(derived_seed(self.context.seed, self.name, "epoch", epoch))
            order = torch.randperm(self.rows, generator=generator)
            start, stop = max(first - epoch * self.rows, 0), first + self.batch_size - epoch * self.rows
            chosen += order[start:stop].tolist()
        return chosen

    def rate(self, step: int) -> float:
        """A linear warm-up, then towards 0: by a line, or half a cosine."""
        warm = max(1, math.ceil(self.config.warm_up * self.total))
        left = min(1.0, (self.total - step + 1) / max(1, self.total - warm + 1))
        left = 0.5 * (1.0 - math.cos(math.pi * left)) if self.config.schedule == "cosine" else left
        return self.learning_rate * min(step / warm, left)

    def micro(self, rows: Sequence[int]) -> list[Sequence[int]]:
        """A batch in pieces of `micro_batch` rows."""
        size = self.config.micro_batch or len(rows)
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    def backward(self, loss: Tensor, share: float) -> None:
        """Adds `share` of the loss's gradient."""
        if not torch.isfinite(loss):
            raise NotFiniteLoss(f"stage {self.name}: loss not finite, seed {self.context.seed}")
        (share * loss).backward()

    def descend(self, rate: float) -> None:
        """One step of the optimiser down the gradient that was added up."""
        nn.utils.clip_grad_norm_(list(self.trained.values()), CLIP_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def mixed(self) -> Any:
        """Forward passes in bfloat16 where the settings say so, and frozen weights are not to be read in float32."""
        enabled = self.config.dtype == "bfloat16" and not self.exact
        return torch.autocast(self.context.device.type, torch.bfloat16, enabled=enabled)

    def update(self, step: int) -> dict[str, float]:
        """One step; returns what to report."""
        indices = self.indices(step)
        whole, total = self.weight(indices), dict[str, float]()
        for rows in self.micro(indices):
            with self.mixed():
                loss, metrics = self.loss(rows, step)
            share = self.weight(rows) / whole
            self.backward(loss, share)
            for name, value in {f"{self.name}/loss": float(loss.detach()), **metrics}.items():
                total[name] = total.get(name, 0.0) + share * value
        self.descend(self.rate(step))
        return total

    def run(self, first: int, count: int) -> dict[str, float]:
        for module in self.modules.values():
            module.train()
        rows = [self.update(step) for step in range(first + 1, first + count + 1)]
        return {name: sum(row[name] for row in rows) / count for name in rows[0]}

    def snapshot(self) -> Part:
        tensors = {f"weights/{name}": weight.detach().cpu().contiguous() for name, weight in self.trained.items()}
        for name, weight in self.trained.items():
            for key, value in self.optimizer.state.get(weight, {}).items():
                tensors[f"adam/{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        return Part(tensors, {})

    def restore(self, kept: Part) -> None:
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(kept.tensors[f"weights/{name}"])
                state: dict[str, Any] = {}
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    value = kept.tensors.get(f"adam/{key}/{name}")
                    if value is not None:
                        state[key] = value.clone() if key == "step" else value.to(weight.device)
                if state:
                    self.optimizer.state[weight] = state

    def parts(self) -> dict[str, Part]:
        raise NotImplementedError


class Nothing:
    """The job of a stage whose part is given: the settings say where, as an artefact may outlive a folder."""

    total, alone = 1, False

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, first: int, count: int) -> dict[str, float]:
        del first, count
        return {}

    def snapshot(self) -> Part:
        return Part({}, {})

    def restore(self, kept: Part) -> None:
        del kept

    def parts(self) -> dict[str, Part]:
        return {self.name: Part({}, {"given": True})}


def without_dropout(model: Any) -> Any:
    """The model with every dropout off, in modules and in attention's numbers: log-probabilities that a step compares
    must be of one function, and what is resumed must go on as if it had not stopped."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def prepared(model: Any, context: Context, config: LanguageConfig) -> Any:
    """The model on the device, ready to be trained. What is trained is float32 always: in bfloat16 a step of a usual
    rate would be rounded away."""
    without_dropout(model)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = wide(weight.data)
    return model.to(context.device)
