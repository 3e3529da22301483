"""Value gradient flow on particles: kernels, one step of the flow, MMD, and the transport it can cause.

Written once for JAX, torch and NumPy arrays: every function takes its operations from its argument's own array
namespace. There are no networks here; whoever calls brings the action `gradient`, grad_a Q(s, a) at the particles.

Notation: particles x are `[..., n, d]`; leading axes are independent problems (observations). sigma is the RBF
bandwidth, k(x, y) = exp(-|x - y|^2 / (2 sigma^2)), and gamma = 1 / (1e-6 + 2 sigma^2).

Source: Value Gradient Flow, arXiv 2604.14265 ("the paper"), Algorithm 1, Figure 7, Theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

Array = Any  # a jax.Array, torch.Tensor or numpy.ndarray

_MIN_BANDWIDTH = 1e-12  # of sigma^2, where all particles coincide
_GAMMA_OFFSET = 1e-6  # keeps gamma finite there
ADAM_BETAS = (0.9, 0.999)
_ADAM_EPS = 1e-8


@dataclass(frozen=True)
class Flow:
    """How particles move. The defaults are the paper's rule as its public code runs it."""

    step_size: float = 0.1  # eps; the learning rate of Adam, so a bound on the move per coordinate and step
    optimizer: str = "adam"  # "adam" | "sgd" (plain steps x + eps phi, of Theorem 1) | "normalized" (x + eps phi/|phi|)
    maxent: bool = True  # repulsion between particles, and alpha
    alpha: float = 1.0  # temperature: weighs repulsion against the value gradient
    kernel: str = "rbf"  # "rbf" | "none" (every particle moves alone)
    bandwidth: str = "median"  # "median" | "fixed" (sigma below)
    sigma: float = 1.0  # bandwidth, if fixed
    bandwidth_gradient: bool = True  # whether repulsion differentiates the median too, as the public code does
    clip_norm: float | None = None  # global-norm clip of phi before the optimiser (amortised VGF)
    box: float | None = 1.0  # actions are clipped to [-box, box] after each step; None: not at all


class Moments(NamedTuple):
    """Adam's running moments for one call of the flow, both `[..., n, d]`."""

    first: Array
    second: Array


def _namespace(x: Array) -> Any:
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    from array_api_compat import array_namespace  # torch tensors name no namespace of their own

    return array_namespace(x)


def squared_distances(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2, `[..., n, m]`, for x `[..., n, d]` and y `[..., m, d]`."""
    xp = _namespace(x)
    difference = x[..., :, None, :] - y[..., None, :, :]
    return xp.sum(difference * difference, axis=-1)


def median_weights(distances: Array) -> Array:
    """Weights `[..., n, n]` that sum to 1 and pick the median out of `distances` `[..., n, n]`.

    So median = sum(weights * distances), which also gives its derivative. Ties go to the earlier pair in row-major
    order, as in a stable sort. Every off-diagonal distance stands twice, so which of the two particles feels the
    median's derivative hangs on this order. The public code has |x|^2 + |y|^2 - 2 x.y for a distance: it agrees where
    its matrix product rounds x.y and y.x alike, and elsewhere that rounding breaks the tie, one way or the other. How
    often depends on shape, dtype, compiler and device: of 2,048 random sets it takes the other particle in none with
    N = 5 in 2 or 5 dimensions in float32, in 28 with N = 7 in 5, and in 36 with N = 5 in 5 in float64 (`pytest -s -k
    takes_the_other tests/methods/test_particles.py`; jax 0.10.2, CPU).
    """
    xp = _namespace(distances)
    count = distances.shape[-1] * distances.shape[-2]
    order = xp.argsort(xp.reshape(distances, (*distances.shape[:-2], count)), axis=-1, stable=True)
    low, high = order[..., (count - 1) // 2], order[..., count // 2]
    pair = xp.cumulative_sum(xp.ones_like(order), axis=-1) - 1  # 0, 1, 2, ... on whichever device `order` is
    weights = xp.astype(pair == low[..., None], distances.dtype) + xp.astype(pair == high[..., None], distances.dtype)
    return xp.reshape(weights / 2.0, distances.shape)


def median_bandwidth(distances: Array, weights: Array | None = None) -> Array:
    """sigma^2 = median / (2 ln(n + 1)), `[...]`, the median over all n x n pairs with the diagonal (Figure 7)."""
    xp = _namespace(distances)
    weights = median_weights(distances) if weights is None else weights
    median = xp.sum(weights * distances, axis=(-2, -1))
    return xp.clip(median / (2.0 * math.log(distances.shape[-1] + 1.0)), _MIN_BANDWIDTH, None)


def direction(x: Array, gradient: Array, flow: Flow) -> Array:
    """The direction phi `[..., n, d]` in which particles x `[..., n, d]` move, given gradient = grad_a Q at x.

    phi(x_i) = 1/n sum_j [ k(x_j, x_i) score_j / alpha + grad_{x_j} k(x_j, x_i) ]  (Algorithm 1); without maxent
    the second term and alpha are dropped. With `bandwidth_gradient` the repulsion is the derivative of sum_ij k
    through the median as well.
    """
    xp = _namespace(x)
    scale = 1.0 / flow.alpha if flow.maxent else 1.0
    if flow.kernel == "none":
        return gradient * scale
    n = x.shape[-2]
    distances = squared_distances(x, x)
    weights = None
    if flow.bandwidth == "median":
        weights = median_weights(distances)
        sigma2 = median_bandwidth(distances, weights)[..., None, None]
    else:
        sigma2 = xp.zeros_like(distances[..., :1, :1]) + flow.sigma**2
    gamma = 1.0 / (_GAMMA_OFFSET + 2.0 * sigma2)
    kernel = xp.exp(-gamma * distances)
    attraction = xp.matmul(kernel, gradient) * scale
    if not flow.maxent:
        return attraction / n

    # sum_j c_ij (x_i - x_j) = x_i sum_j c_ij - (c x)_i, for c = 2 gamma k plus the median's share
    coefficients = 2.0 * gamma * kernel
    if weights is not None and flow.bandwidth_gradient:
        spread = xp.sum(kernel * distances, axis=(-2, -1), keepdims=True)
        moves = xp.astype(sigma2 > _MIN_BANDWIDTH, x.dtype)
        coefficients = coefficients - moves * (2.0 * gamma**2 * spread / math.log(n + 1.0)) * weights
    difference = x[..., :, None, :] - x[..., None, :, :]
    repulsion = xp.sum(coefficients[..., None] * difference, axis=-2)
    return (attraction + repulsion) / n


def fresh_moments(x: Array) -> Moments:
    """Fresh moments for particles x: the optimiser's memory lasts for one call of the flow."""
    xp = _namespace(x)
    return Moments(xp.zeros_like(x), xp.zeros_like(x))


def step(x: Array, gradient: Array, moments: Moments, count: Any, flow: Flow) -> tuple[Array, Moments]:
    """One step of the flow.

    Args:
      x: particles `[..., n, d]`.
      gradient: grad_a Q at x, `[..., n, d]`.
      moments: from `fresh_moments` or the step before.
      count: which step this is, from 1; may be traced.
      flow: how to move.

    Returns:
      The moved particles and the new moments.
    """
    return move(x, direction(x, gradient, flow), moments, count, flow)


def move(x: Array, phi: Array, moments: Moments, count: Any, flow: Flow, *, scale: Any = 1.0) -> tuple[Array, Moments]:
    """As `step`, for a direction phi `[..., n, d]` that need not be the direction at x itself: where particles are
    compared in other coordinates than they move in. `scale` `[..., n, 1]` multiplies steps."""
    xp = _namespace(x)
    if flow.clip_norm is not None:
        norm = xp.sqrt(xp.sum(phi * phi))
        phi = xp.where(norm < flow.clip_norm, phi, phi / norm * flow.clip_norm)
    if flow.optimizer == "adam":
        first_decay, second_decay = ADAM_BETAS
        first = first_decay * moments.first + (1.0 - first_decay) * phi
        second = second_decay * moments.second + (1.0 - second_decay) * phi * phi
        moments = Moments(first, second)
        # the powers in the particles' own precision, as optax takes them: in float32 it shows in the fifth digit
        first_bias, second_bias = (1.0 - xp.asarray(decay, dtype=x.dtype) ** count for decay in ADAM_BETAS)
        phi = first / first_bias / (xp.sqrt(second / second_bias) + _ADAM_EPS)
    elif flow.optimizer == "normalized":
        norm = xp.sqrt(xp.sum(phi * phi, axis=-1, keepdims=True))
        phi = phi / (norm + xp.astype(norm == 0.0, norm.dtype))  # no direction, no step
    x = x + flow.step_size * scale * phi
    return (x if flow.box is None else xp.clip(x, -flow.box, flow.box)), moments


def python_loop(first: int, stop: int, body: Callable[[int, Any], Any], value: Any) -> Any:
    """value = body(i, value) for i in first .. stop - 1; the signature of `jax.lax.fori_loop`."""
    for i in range(first, stop):
        value = body(i, value)
    return value


def transport(
    x: Array,
    action_grad: Callable[[Array], Array],
    steps: int,
    flow: Flow,
    *,
    limit: Array | None = None,
    loop: Callable[[int, int, Callable[[Any, Any], Any], Any], Any] = python_loop,
) -> Array:
    """Moves particles x `[..., n, d]` by `steps` steps up the value gradient.

    Args:
      action_grad: particles `[..., n, d]` -> grad_a Q there, `[..., n, d]`.
      limit: `[...]`, optional: stop each problem after its own number of steps (at most `steps`). So one program
        serves every L_test.
      loop: what repeats the steps, such as `jax.lax.fori_loop`.
    """
    xp = _namespace(x)

    def body(count: Any, carry: tuple[Array, Moments]) -> tuple[Array, Moments]:
        x, moments = carry
        moved, moments = step(x, action_grad(x), moments, count, flow)
        return (moved if limit is None else xp.where((limit >= count)[..., None, None], moved, x)), moments

    return loop(1, steps + 1, body, (x, fresh_moments(x)))[0]


def mmd2(x: Array, y: Array, sigma: float) -> Array:
    """Squared maximum mean discrepancy `[...]` between samples x `[..., n, d]` and y `[..., m, d]`.

    The biased estimate (V-statistic), under k(x, y) = exp(-|x - y|^2 / (2 sigma^2)); at most 2.
    """
    xp = _namespace(x)

    def mean_kernel(a: Array, b: Array) -> Array:
        return xp.mean(xp.exp(-squared_distances(a, b) / (2.0 * sigma**2)), axis=(-2, -1))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y)


def adam_gains(steps: int) -> list[float]:
    """b_1..b_L: the largest |update| / learning rate of Adam at each step after a fresh start, over all gradients.

    m^ = sum w_i g_i and v^ = sum u_i g_i^2, so by Cauchy-Schwarz |m^| / sqrt(v^) <= sqrt(sum w_i^2 / u_i), which is
    attained. b_1 = 1, and b_2 = 1.0014.
    """
    gains = []
    for count in range(1, steps + 1):
        ratio = 0.0
        for age in range(count):
            first, second = (
                (1.0 - decay) * decay**age / (1.0 - decay**count) for decay in ADAM_BETAS
            )  # weights of the gradient seen `age` steps ago
            ratio += first**2 / second
        gains.append(math.sqrt(ratio))
    return gains


def transport_bound(flow: Flow, steps: int, dim: int, sigma: float, *, lipschitz: float | None = None) -> float:
    """A certified bound on `mmd2(start, transported, sigma)` for the rule that is actually run.

    Whatever moves each particle by at most delta_l (Euclidean) at step l gives MMD^2 <= 2 sum_l delta_l /
    (sigma sqrt(e)), as k is 1/(sigma sqrt(e))-Lipschitz in each argument. Clipping to a box that holds the starting
    particles only shortens moves. Here

      Adam:  delta_l <= b_l eps sqrt(d), whatever the value function (`adam_gains`); in float32, where 1 - 0.999^l
             loses digits, steps can be longer by 3e-5 of themselves;
      normalized steps: delta_l <= eps;
      SGD:   delta_l <= eps (c / alpha + 1 / (sigma_flow sqrt(e))) with a fixed bandwidth (Theorem 1), eps c without
             maxent, eps c / alpha without a kernel; c is the Euclidean Lipschitz constant of a -> Q(s, a).

    Args:
      flow: the rule. steps: L. dim: of the actions. sigma: bandwidth of the MMD.
      lipschitz: c, for SGD; more exactly a bound on |gradient|, and of a regressed gradient (amortised VGF) just that.

    Raises:
      ValueError: nothing can be certified: SGD without c, or SGD with repulsion and a median bandwidth (which can
        make repulsion arbitrarily large) and no norm clip.
    """
    if steps == 0:
        return 0.0
    if flow.optimizer == "adam":
        total = sum(adam_gains(steps)) * flow.step_size * math.sqrt(dim)
    elif flow.optimizer == "normalized":
        total = steps * flow.step_size
    else:
        total = steps * flow.step_size * _largest_direction(flow, lipschitz)
    return 2.0 * total / (sigma * math.sqrt(math.e))


def _largest_direction(flow: Flow, lipschitz: float | None) -> float:
    """sup |phi(x_i)|, Euclidean, for plain steps."""
    if flow.clip_norm is not None and lipschitz is None:
        return flow.clip_norm
    if lipschitz is None:
        raise ValueError("plain steps are as long as the value gradient: give its Lipschitz constant")
    longest = lipschitz / flow.alpha if flow.maxent else lipschitz
    if flow.maxent and flow.kernel == "rbf":
        if flow.bandwidth == "median":
            if flow.clip_norm is None:
                raise ValueError("repulsion with a median bandwidth is unbounded: fix the bandwidth, use Adam or clip")
            return flow.clip_norm
        gamma = 1.0 / (_GAMMA_OFFSET + 2.0 * flow.sigma**2)
        longest += math.sqrt(2.0 * gamma / math.e)
    return longest if flow.clip_norm is None else min(longest, flow.clip_norm)
