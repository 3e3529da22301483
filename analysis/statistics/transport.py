"""How far a flow carries its particles: measured, as the distance to where they started, and certified beforehand.

The rule itself and the proof of the bound stand in `methods/particles.py`, which is not imported here; a test holds
that both say the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BETAS = (0.9, 0.999)  # of Adam


@dataclass(frozen=True)
class Flow:
    """The settings of a run's flow; the defaults are VGF's."""

    step_size: float = 0.1
    optimizer: str = "adam"  # "adam" | "normalized" | "sgd"
    maxent: bool = True
    alpha: float = 1.0
    kernel: str = "rbf"
    bandwidth: str = "median"
    sigma: float = 1.0  # of the MMD's kernel, too
    bandwidth_gradient: bool = True


def mmd2(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """Squared maximum mean discrepancy `[...]`, biased estimate, between samples x `[..., n, d]` and y `[..., m, d]`
    under k(x, y) = exp(-|x - y|^2 / (2 sigma^2))."""

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distances = ((a[..., :, None, :] - b[..., None, :, :]) ** 2).sum(axis=-1)
        return np.exp(-distances / (2.0 * sigma**2)).mean(axis=(-2, -1))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y)


def adam_gains(steps: int) -> np.ndarray:
    """b_1 .. b_L `[steps]`: the longest that Adam's update can be at each step, in units of its learning rate.

    b_l^2 = sum over ages of w^2 / u, the weights w of gradients and u of their squares: a geometric series in
    beta_1^2 / beta_2.
    """
    first, second = BETAS
    count = np.arange(1, steps + 1)
    ratio = first**2 / second
    series = (1.0 - ratio**count) / (1.0 - ratio)
    scale = (1.0 - first) ** 2 / (1.0 - first**count) ** 2 * (1.0 - second**count) / (1.0 - second)
    return np.sqrt(scale * series)


def transport_bound(flow: Flow, steps: int, dim: int) -> float:
    """A certified bound on `mmd2(start, moved, flow.sigma)` after so many steps in `dim` dimensions.

    MMD^2 <= 2 sum_l delta_l / (sigma sqrt(e)), delta_l the longest step: b_l eps sqrt(d) for Adam, eps if normalised.

    Raises:
      ValueError: plain steps, which are as long as the value gradient.
    """
    if steps == 0:
        return 0.0
    if flow.optimizer == "adam":
        total = float(adam_gains(steps).sum()) * flow.step_size * math.sqrt(dim)
    elif flow.optimizer == "normalized":
        total = steps * flow.step_size
    else:
        raise ValueError("plain steps are as long as the value gradient, whose Lipschitz constant no record has")
    return 2.0 * total / (flow.sigma * math.sqrt(math.e))
