"""Time of VGF, A-VGF and FQL against the same arithmetic written as their authors write it, in one process.

    python -m tests.authors [--seconds 60] [--precision bfloat16] [--out results/measured/authors_cpu.csv]

The authors' way: flax modules, one compiled update that Python calls at every step with a batch drawn by NumPy on the
host, metrics returned. Ours: the harness's program, a scan over steps with the data on the device. Both take turns, so
that a busy machine slows both alike; the ratio is the median over turns, with its 95% interval. The first update of
both, from equal parameters, batch and draws, is compared elsewhere (`tests/methods/test_updates.py`); here it is their
time alone.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
import typer

from harness.measure import matrix_seconds, random_transitions
from harness.train import Algorithm, Trainer, device_summary, initial_state, lanes_of, needed, take
from methods import get
from methods.core import TaskSpec

SPEC = TaskSpec(28, 5, 1)  # cube-single's
HIDDEN, BATCH, N, STEPS = (512,) * 4, 256, 5, 4
LEAST_TURNS = 6  # of which the least and the most hold the median with 97%
BEHAVIOR, CRITIC = dict(act=nn.relu), dict(act=nn.relu, norm="before")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Net(nn.Module):
    """An MLP of what it is given, one after another."""

    out: int
    act: Callable[[Any], Any]
    norm: str = ""

    @nn.compact
    def __call__(self, *inputs: Any) -> Any:
        x = jnp.concatenate(inputs, axis=-1)
        for width in HIDDEN:
            x = nn.Dense(width)(x)
            x = nn.LayerNorm()(x) if self.norm == "before" else x
            x = self.act(x)
            x = nn.LayerNorm()(x) if self.norm == "after" else x
        return nn.Dense(self.out)(x)


class TwinQ(nn.Module):
    """[2, ...]"""

    act: Callable[[Any], Any]
    norm: str

    @nn.compact
    def __call__(self, obs: Any, actions: Any) -> Any:
        twin = nn.vmap(Net, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=2)
        return twin(1, self.act, self.norm)(obs, actions)[..., 0]


def wide(obs: Any, n: int) -> Any:
    return jnp.repeat(obs[:, None], n, axis=1)


class Authors:
    """Networks, their parameters, and what is common to the three."""

    act: Any = nn.relu
    norm = "before"

    def __init__(self) -> None:
        obs, action = jnp.zeros((1, SPEC.obs_dim)), jnp.zeros((1, SPEC.action_dim))
        self.flow, self.q = Net(SPEC.action_dim, self.act), TwinQ(self.act, self.norm)
        key = jax.random.key(0)
        self.params = {"flow": self.flow.init(key, obs, action, action[:, :1]), "q": self.q.init(key, obs, action)}
        self.target = jax.tree.map(jnp.copy, self.params["q"])
        self.more(obs, action, key)
        self.tx = self.optimizer()
        self.state = (self.params, self.target, self.tx.init(self.params))
        self.update = jax.jit(self._update)

    def more(self, obs: Any, action: Any, key: Any) -> None:
        """Further networks."""

    def optimizer(self) -> Any:
        return optax.adam(3e-4)

    def loss(self, params: Any, old: Any, target: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        raise NotImplementedError

    def _update(self, state: Any, batch: Any, key: Any) -> Any:
        params, target, opt_state = state
        grads, info = jax.grad(self.loss, has_aux=True)(params, params, target, batch, key)
        updates, opt_state = self.tx.update(grads, opt_state, params)
        target = jax.tree.map(lambda p, t: 0.005 * p + 0.995 * t, params["q"], target)
        return (optax.apply_updates(params, updates), target, opt_state), info

    def imitation(self, params: Any, batch: Any, key: Any) -> Any:
        noise_key, time_key = jax.random.split(key)
        x1 = batch["actions"]
        x0, t = jax.random.normal(noise_key, x1.shape), jax.random.uniform(time_key, (BATCH, 1))
        velocity = self.flow.apply(params["flow"], batch["observations"], (1 - t) * x0 + t * x1, t)
        return jnp.mean((velocity - (x1 - x0)) ** 2)

    def sample(self, params: Any, obs: Any, noise: Any) -> Any:
        x = noise
        for i in range(10):
            x = x + self.flow.apply(params["flow"], obs, x, jnp.full((*x.shape[:-1], 1), i / 10)) / 10
        return jnp.clip(x, -1, 1)

    def td(self, params: Any, batch: Any, next_q: Any) -> Any:
        y = jax.lax.stop_gradient(batch["rewards"] + 0.99 * batch["masks"] * next_q)
        return self.q.apply(params["q"], batch["observations"], batch["actions"]) - y


class VGF(Authors):
    def action_grad(self, old: Any, obs: Any, x: Any) -> Any:
        return jax.grad(lambda x: self.q.apply(old["q"], obs, x).mean(axis=0).sum())(x)

    def phi(self, old: Any, obs: Any, x: Any) -> Any:
        """The paper's kernel, its repulsion by autodiff through the median."""

        def one(x: Any, slope: Any) -> Any:
            def kernel(a: Any, b: Any) -> Any:
                d2 = jnp.sum(a**2, -1)[:, None] + jnp.sum(b**2, -1)[None] - 2 * a @ b.T
                sigma2 = jnp.maximum(jnp.median(d2) / (2 * jnp.log(N + 1.0)), 1e-12)
                return jnp.exp(-d2 / (1e-6 + 2 * sigma2))

            repulsion = -jax.grad(lambda a: kernel(a, jax.lax.stop_gradient(x)).sum())(x)
            return (kernel(x, x) @ slope + repulsion) / N

        return jax.vmap(one)(x, self.action_grad(old, obs, x))

    def moved(self, old: Any, obs: Any, x: Any) -> Any:
        tx = self.particles()
        opt_state = tx.init(x)
        updates, _ = tx.update(-self.phi(old, obs, x), opt_state)
        return jnp.clip(x + updates, -1, 1)

    def particles(self) -> Any:
        return optax.adam(0.1)

    def loss(self, params: Any, old: Any, target: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        noise_key, flow_key = jax.random.split(key)
        obs = wide(batch["next_observations"], N)
        start = self.sample(old, obs, jax.random.normal(noise_key, (BATCH, N, SPEC.action_dim)))
        moved = jax.lax.stop_gradient(self.moved(old, obs, start))
        error = self.td(params, batch, self.q.apply(target, obs, moved).mean(axis=(0, 2)))
        critic, imitation = (error**2).sum(axis=0).mean(), self.imitation(params, batch, flow_key)
        return critic + imitation, {"critic": critic, "imitation": imitation}


class AVGF(VGF):
    def more(self, obs: Any, action: Any, key: Any) -> None:
        self.gradient = Net(SPEC.action_dim, nn.relu, "before")
        self.params["gradient"] = self.gradient.init(key, obs, action)

    def optimizer(self) -> Any:
        each = {name: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-4)) for name in self.params}
        return optax.multi_transform(each, {name: name for name in self.params})

    def particles(self) -> Any:
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))

    def phi(self, old: Any, obs: Any, x: Any) -> Any:
        return self.gradient.apply(old["gradient"], obs, x)

    def loss(self, params: Any, old: Any, target: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        total, info = super().loss(params, old, target, batch, key)
        obs, actions = batch["observations"], batch["actions"]
        slope = jax.lax.stop_gradient(self.action_grad(old, obs, actions))
        regression = jnp.mean((self.gradient.apply(params["gradient"], obs, actions) - slope) ** 2)
        return total + regression, {**info, "gradient": regression}


class FQL(Authors):
    act = staticmethod(nn.gelu)
    norm = "after"

    def more(self, obs: Any, action: Any, key: Any) -> None:
        self.actor = Net(SPEC.action_dim, nn.gelu)
        self.params["actor"] = self.actor.init(key, obs, action)

    def loss(self, params: Any, old: Any, target: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        next_key, noise_key, flow_key = jax.random.split(key, 3)
        obs, next_obs, shape = batch["observations"], batch["next_observations"], batch["actions"].shape
        next_actions = jnp.clip(self.actor.apply(old["actor"], next_obs, jax.random.normal(next_key, shape)), -1, 1)
        critic = (self.td(params, batch, self.q.apply(target, next_obs, next_actions).mean(axis=0)) ** 2).mean()
        noise = jax.random.normal(noise_key, shape)
        imitated = jax.lax.stop_gradient(self.sample(old, obs, noise))
        actions = self.actor.apply(params["actor"], obs, noise)
        distill = jnp.mean((actions - imitated) ** 2)
        q = self.q.apply(old["q"], obs, jnp.clip(actions, -1, 1)).mean()
        imitation = self.imitation(params, batch, flow_key)
        info = {"critic": critic, "distill": distill, "q": q, "imitation": imitation}
        return critic + imitation + 10.0 * distill - q, info


def authors_loop(agent: Authors) -> Callable[[], None]:
    """A call does STEPS updates."""
    data = {name: column for name, column in random_transitions(SPEC).items() if "next_actions" not in name}
    rng, step = np.random.default_rng(0), 0

    def run() -> None:
        nonlocal step
        for _ in range(STEPS):
            places = rng.integers(len(data["rewards"]), size=BATCH)
            batch = {name: column[places] for name, column in data.items()}
            agent.state, info = agent.update(agent.state, batch, jax.random.fold_in(jax.random.key(1), step))
            step += 1
        jax.block_until_ready((agent.state, info))

    return run


def our_loop(name: str, precision: str) -> Callable[[], None]:
    """A call does STEPS updates."""
    cls = get(name)
    method = cls(cls.Config(hidden_dims=HIDDEN, batch_size=BATCH, precision=precision), SPEC)
    lanes = lanes_of((0,), [method])
    trainer = Trainer(Algorithm(method, 0), lanes, take(random_transitions(SPEC), needed(method)),
                      state := initial_state(method, lanes))  # fmt: skip
    first = 0

    def run() -> None:
        nonlocal state, first
        state, _ = trainer.run(state, first, STEPS)
        first += STEPS

    return run


def turns(loops: Sequence[Callable[[], None]], seconds: float) -> np.ndarray:
    """Milliseconds of an update in each loop at each turn `[turns, loops]`, taking turns for so long."""
    for run in loops:  # compiles
        run()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < LEAST_TURNS:
        times.append([])
        for run in loops:
            started = time.perf_counter()
            run()
            times[-1].append(1e3 * (time.perf_counter() - started) / STEPS)
    return np.array(times)


def median(values: np.ndarray) -> tuple[float, float, float]:
    """(median, low, high): the order statistics between which the true one lies with at least 95%."""
    values, count = np.sort(values), len(values)
    below = int(scipy.stats.binom.ppf(0.025, count, 0.5))  # P(fewer than `below` values under it) <= 2.5%
    return float(np.median(values)), float(values[below - 1]), float(values[count - below])


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="of measuring, for each method")] = 60.0,
    names: Annotated[str, typer.Option("--methods")] = "vgf,avgf,fql",
    precision: Annotated[str, typer.Option(help="of ours, beside float32: bfloat16")] = "",
    out: Annotated[Path | None, typer.Option(help="also write a CSV file")] = None,
) -> None:
    """Milliseconds of an update, theirs and ours, and the ratio."""
    rate = min(matrix_seconds("float32")() for _ in range(20))
    rows = []
    print(f"matrix products alone: {2e-9 * 1024 * 512 * 512 / rate:.0f} GFLOP/s in float32")
    for name in names.split(","):
        theirs = authors_loop({"vgf": VGF, "avgf": AVGF, "fql": FQL}[name]())
        kinds = ["float32", *filter(None, [precision])]
        times = turns([theirs, *map(partial(our_loop, name), kinds)], seconds)
        for kind, ours in zip(kinds, times.T[1:], strict=True):
            ratio, low, high = median(ours / times[:, 0])
            a, b = np.median(times[:, 0]), np.median(ours)
            rows.append([name, kind, f"{a:.1f}", f"{b:.1f}", f"{ratio:.3f}", f"{low:.3f}", f"{high:.3f}", len(times)])
            print(f"{name}, {kind}: theirs {a:.1f} ms, ours {b:.1f} ms, ratio {ratio:.3f} [{low:.3f}, {high:.3f}], "
                  f"{len(times)} turns", flush=True)  # fmt: skip
        if precision:
            ratio, low, high = median(times[:, 2] / times[:, 1])
            rows.append([name, f"{precision} / float32", *(f"{np.median(one):.1f}" for one in times.T[1:]),
                         f"{ratio:.3f}", f"{low:.3f}", f"{high:.3f}", len(times)])  # fmt: skip
            print(f"{name}: ours in {precision} takes {ratio:.3f} [{low:.3f}, {high:.3f}] of its float32", flush=True)
    if out:
        with out.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                [
                    "method",
                    "precision",
                    "ms_authors_way",
                    "ms_ours",
                    "ratio",
                    "low",
                    "high",
                    "turns",
                    "device",
                    "jax",
                    "date",
                    "command",
                ]
            )
            about = [device_summary()["kind"], jax.__version__, time.strftime("%Y-%m-%d", time.gmtime()),
                     "python -m tests.authors " + " ".join(sys.argv[1:])]  # fmt: skip
            writer.writerows([*row, *about] for row in rows)


if __name__ == "__main__":
    app()
