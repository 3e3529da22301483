"""What a trained critic says, at held-out transitions, of a policy at each test-time setting; no environment is asked.

A method need not declare more than it has: its knobs, how it acts, and a part "critic" that is a `Critic` of finished
actions. Methods whose critic values something else (unfinished actions, an action with noise) have none here.

Nothing that trains imports this file, so it is no part of what trained parts are known by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from methods.core import Array, Batch, ControlConfig, Key, Knobs, Method, State
from methods.critic import Critic
from methods.losses import counted, td_target
from methods.networks import features, rows
from methods.particles import Flow, transport_bound
from methods.td3bc import Normalizer

BLOCK = 512  # observations whose actions are computed at once
T = TypeVar("T")


class Asked(NamedTuple):
    """What is known of k settings at b transitions; K critics."""

    actions: Array
    """`[b, k, a]`, taken at the observations, from the same draws at every setting."""
    next_actions: Array
    """`[b, k, a]`, likewise at the next observations."""
    values: Array
    """Q `[K, b, k]` of `actions`; K = 0 without a critic."""
    data_values: Array
    """Q `[K, b]` of the data's own actions."""
    next_values: Array
    """Q `[K, b, k]` of `next_actions`."""


def critic_of(method: Method) -> Critic | None:
    """The method's critic of finished actions, None if it has none."""
    found = method.parts.get("critic")
    return found if isinstance(found, Critic) and found.action_dim == method.spec.action_dim else None


def discount_of(method: Method) -> Any:
    """gamma^h, of the value that follows the h rewards of a sample; traced where the method's settings are."""
    c = method.config
    return c.discount**c.window if isinstance(c, ControlConfig) else c.discount


def asked(method: Method, state: State, batch: Batch, key: Key, knobs: Knobs) -> Asked:
    """Actions and values at a batch of the method's own kind, `[b, ...]`, under settings name -> `[k]`. `key` is
    consumed."""
    here_key, next_key = jax.random.split(key)
    critic = critic_of(method)

    def block(part: Batch, number: Array) -> Asked:
        here, there = part["observations"], part["next_observations"]
        actions = at_settings(method, state, here, jax.random.fold_in(here_key, number), knobs)
        following = at_settings(method, state, there, jax.random.fold_in(next_key, number), knobs)
        if critic is None:
            count, k, _ = actions.shape
            none, none_of_data = jnp.zeros((count, 0, k)), jnp.zeros((count, 0))
            return Asked(actions, following, none, none_of_data, none)

        def q(obs: Array, actions: Array) -> Array:  # members behind rows, which are what blocks are joined by
            return jnp.moveaxis(q_values(method, critic, state, obs, actions), 0, 1)

        return Asked(actions, following, q(here, actions), q(here, part["actions"]), q(there, following))

    found = in_blocks(block, {name: batch[name] for name in ("observations", "next_observations", "actions")})
    return found._replace(
        values=jnp.moveaxis(found.values, 1, 0),
        data_values=jnp.moveaxis(found.data_values, 1, 0),
        next_values=jnp.moveaxis(found.next_values, 1, 0),
    )


def at_settings(method: Method, state: State, obs: Array, key: Key, knobs: Knobs) -> Array:
    """The actions `[b, k, a]` that the method takes at observations `[b, o]` under settings name -> `[k]`, each from
    the same draws. `key` is consumed."""
    count = rows(obs)
    if not knobs:  # one setting, which has no name
        return method.act(state, obs, key, {})[:, None]
    # one after another: a program's memory does not grow with the grid
    found = jax.lax.map(
        lambda one: method.act(state, obs, key, {name: jnp.full(count, value) for name, value in one.items()}),
        dict(knobs),
    )
    return jnp.moveaxis(found, 0, 1)


def q_values(method: Method, critic: Critic, state: State, obs: Array, actions: Array) -> Array:
    """Q `[K, ...]` of the online critics, of actions `[b, a]` or `[b, k, a]` at observations `[b, o]` as the method is
    given them."""
    if isinstance(method.parts.get("normalizer"), Normalizer):
        obs = (features(obs) - state["normalizer"]["mean"]) / state["normalizer"]["std"]
    return critic.q_values(state["critic"].params, obs, actions)


def in_blocks(function: Callable[[Batch, Array], T], columns: Mapping[str, Array], block: int = BLOCK) -> T:
    """What a function of columns `[rows, ...]` and a block's number gives, a block of rows at a time; its leaves are
    `[rows, ...]`. The last block is filled up with rows from the beginning, which are dropped."""
    count = rows(columns)
    block = min(block, count)
    blocks = math.ceil(count / block)
    places = jnp.arange(blocks * block) % count
    parts = jax.tree.map(lambda leaf: leaf[places].reshape(blocks, block, *leaf.shape[1:]), dict(columns))
    found = jax.lax.map(lambda one: function(*one), (parts, jnp.arange(blocks)))
    return jax.tree.map(lambda leaf: leaf.reshape(blocks * block, *leaf.shape[2:])[:count], found)


def estimates(found: Asked, batch: Batch, discount: Any, base: Any) -> dict[str, Array]:
    """The quantities of each setting, `[k]`; means over transitions, without those whose window crosses an episode's
    end. `base`: the setting that the others' transport is measured from.

      value             mean over critics of Q(s, a), a the policy's action
      disagreement      std over critics (of the population) of Q(s, a)
      data_value, data_disagreement    the same of the data's own actions
      td_error          (Q_k(s, a_data) - r - gamma m mean_j Q_j(s', a'))^2, its mean over critics, too
      transport         |a - a_base|, Euclidean, from the same draws

    Those of critics are NaN without one, and disagreements with fewer than two.
    """
    whole = jnp.broadcast_to(jnp.asarray(counted(batch), found.actions.dtype), found.actions.shape[:1])
    share = whole / jnp.maximum(jnp.sum(whole), 1.0)
    members, _, k = found.values.shape
    moved = jnp.linalg.norm(found.actions - found.actions[:, base][:, None], axis=-1)
    nothing = jnp.full(k, jnp.nan)
    made = dict.fromkeys(("value", "disagreement", "data_value", "data_disagreement", "td_error"), nothing)
    made["transport"] = share @ moved
    if members:
        target = td_target(batch["rewards"][:, None], batch["masks"][:, None], jnp.mean(found.next_values, 0), discount)
        errors = jnp.mean((found.data_values[..., None] - target) ** 2, axis=0)
        made["value"] = share @ jnp.mean(found.values, axis=0)
        made["data_value"] = jnp.full(k, share @ jnp.mean(found.data_values, axis=0))
        made["td_error"] = share @ errors
    if members > 1:
        made["disagreement"] = share @ jnp.std(found.values, axis=0)
        made["data_disagreement"] = jnp.full(k, share @ jnp.std(found.data_values, axis=0))
    return made


def certified(method: Method, knobs: Mapping[str, float]) -> float:
    """The farthest, Euclidean, that a particle of the method's flow can have moved at a setting, whatever the critic
    (`particles.transport_bound`); NaN where the method has no flow of particles, or nothing is certified."""
    flow = getattr(method, "flow", None) or getattr(method.config, "flow", None)
    path = next((knob.name for knob in method.inference if knob.path), None)
    if not isinstance(flow, Flow) or path is None:
        return math.nan
    try:  # MMD^2 <= 2 (sum of steps) / (sigma sqrt(e)): with this sigma it is the sum of steps
        return transport_bound(flow, int(knobs[path]), method.spec.action_dim, sigma=2.0 / math.sqrt(math.e))
    except ValueError:
        return math.nan
