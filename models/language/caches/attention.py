"""Attention of many rows over one shared prefix and over what each row has of its own, merged exactly.

For one query, with values v and scores s, softmax attention over the union of two sets is the average of the two
attentions a and b, weighted by their masses: (e^A a + e^B b) / (e^A + e^B), where A and B are the log-sum-exp of s over
each set. So the prefix needs one matrix product for all rows, whatever their number (Juravsky et al. 2024, "Hydragen").

Shapes: F rows, Q new tokens each, Hq query heads, Hkv key heads, G = Q Hq / Hkv queries a key head, D a head's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from transformers import AttentionInterface

from feynkac.base.errors import ModelError

if TYPE_CHECKING:
    from feynkac.models.language.caches.store import SharedCache

NAME = "feynkac_particles"
"""The name of `shared_attention` among the attention functions of transformers."""
AttendPrefix: TypeAlias = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor]]


def shared_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    particles: SharedCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(F, Q, Hq, D) attention of `query` (F, Hq, Q, D) over the prefix in `particles` and over `key` and `value`.

    `key`, `value`: (F, Hkv, L, D) of the rows' own tokens, as the cache's layer returned them. Raises ModelError for
    arguments that would change the attention in a way not known here.
    """
    if particles is None or attention_mask is not None:
        raise ModelError("this architecture does not pass the cache on to its attention, or masks it by itself")
    _refuse_unknown(kwargs, particles.longest)
    factor: float = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):  # it would lower the products, and leave the merge in float32
        with torch.autocast(query.device.type, enabled=False):
            return _attend(query, key, value, factor, particles), None
    return _attend(query, key, value, factor, particles), None


AttentionInterface.register(NAME, shared_attention)


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, particles: SharedCache) -> Tensor:
    rows, heads, n_new, _ = query.shape
    # The heads of one group, and their new tokens, are queries to the same keys.
    query = query.reshape(rows, key.shape[1], -1, query.shape[3])
    if is_on_host(query):
        merged = _merge_on_host(query, key, value, scaling, particles)
    else:
        from feynkac.models.language.caches.devices import merge_on_device

        merged = merge_on_device(query, key, value, scaling, particles)
    return merged.reshape(rows, heads, n_new, -1).transpose(1, 2).to(value.dtype)


def is_on_host(query: Tensor) -> bool:
    """Whether the operators of the CPU serve a query."""
    return query.device.type == "cpu"


def _merge_on_host(query: Tensor, key: Tensor, value: Tensor, scaling: float, particles: SharedCache) -> Tensor:
    """(F, Hkv, G, D) float32 attention over prefix and own tokens."""
    query = query * scaling
    own, own_mass = _attend_own(query, key, value, repeat_mask(particles.step.mask, query))
    prefix, prefix_mass = attend_prefixes(query, particles, _attend_prefix)
    return torch.lerp(own, prefix, torch.sigmoid(prefix_mass - own_mass))


def repeat_mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """The mask (F, 1, Q, L) of new tokens as one of the queries of `query` (F, Hkv, G, D), new tokens innermost."""
    if mask is None or mask.shape[2] == 1:
        return mask
    return mask.repeat(1, 1, query.shape[2] // mask.shape[2], 1)


def _refuse_unknown(kwargs: dict[str, Any], longest: int) -> None:
    """Sinks, soft caps, biases: anything given that is not known to leave causal softmax attention as it is."""
    for name, given in kwargs.items():
        if name == "sliding_window" and given is not None and longest > given:
            raise ModelError(f"a text of {longest} tokens is longer than the attention window of {given} tokens")
        harmless = name in ("position_ids", "sliding_window") or given is None
        flag = isinstance(given, bool) and (given or name != "is_causal")  # what to return, mostly
        if not harmless and not flag:
            raise ModelError(f"the attention of this architecture has '{name}', which a shared prefix cannot honour")


def _attend_own(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(F, Hkv, G, D) attention over each row's own tokens, and its (F, Hkv, G, 1) log mass, both float32."""
    if query.dtype != torch.float32 and _has_flash(query, value):
        out, mass = _flash(query, key, value, mask)
        return out.float(), mass
    n = key.shape[0] * key.shape[1]
    keys, values = (x.flatten(0, 1).float() for x in (key, value))  # a view: rows and heads lie evenly
    scores = torch.bmm(query.reshape(n, -1, query.shape[-1]).float(), keys.transpose(1, 2))
    if mask is not None:
        scores.view(*key.shape[:2], *scores.shape[1:]).add_(mask)
    out, mass = _softmax(scores, values)
    return out.view(*query.shape[:3], -1), mass.view(*query.shape[:3], 1)


def attend_prefixes(query: Tensor, particles: SharedCache, attend_one: AttendPrefix) -> tuple[Tensor, Tensor]:
    """(F, Hkv, G, D) attention of each row over its prompt, and its log mass, both float32; `attend_one` does one."""
    prefixes, biases = particles.current.prefixes, particles.current.biases
    if len(particles.step.parts) == 1:
        number = particles.step.parts[0][0]
        return attend_one(query, *prefixes[number], biases.get(number))
    out = mass = None
    for number, rows in particles.step.parts:
        some, some_mass = attend_one(query[rows], *prefixes[number], biases.get(number))
        if out is None or mass is None:
            out = some.new_empty(query.shape[0], *some.shape[1:])
            mass = some.new_empty(query.shape[0], *some_mass.shape[1:])
        out[rows], mass[rows] = some, some_mass
    assert out is not None and mass is not None
    return out, mass


def _attend_prefix(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(F, Hkv, G, D) attention of rows that share `key` and `value` (1, Hkv, P, D), and its (F, Hkv, G, 1) log mass.

    `bias` (Hq, P) is added to the scores, if given. Both results are float32.
    """
    rows, heads, group, size = query.shape
    packed = query.transpose(0, 1).reshape(1, heads, rows * group, size)
    if bias is None and _has_flash(query, value):
        out, mass = _flash(packed, key, value, None)
        out, mass = out[0].float(), mass[0]
    else:
        scores = torch.bmm(packed[0].float(), key[0].float().transpose(1, 2))
        if bias is not None:
            scores.view(heads, rows, group, -1).add_(spread_bias(bias, query)[:, None])
        out, mass = _softmax(scores, value[0].float())
    split = (heads, rows, group, -1)
    return out.reshape(split).transpose(0, 1), mass.reshape(split).transpose(0, 1)


def spread_bias(bias: Tensor, query: Tensor) -> Tensor:
    """The bias (Hq, P) of query heads as one of the queries of `query` (F, Hkv, G, D), (Hkv, G, P)."""
    each = bias.view(query.shape[1], -1, bias.shape[1])  # the query heads of each key head, new tokens innermost
    return each.repeat_interleave(query.shape[2] // each.shape[1], 1)


def _softmax(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    mass = scores.logsumexp(-1, keepdim=True)
    return torch.bmm(scores.sub_(mass).exp_(), values), mass


def _has_flash(query: Tensor, value: Tensor) -> bool:
    alike = query.shape[-1] == value.shape[-1] and query.dtype == value.dtype
    return query.device.type == "cpu" and _flash_for_cpu is not None and alike


_flash_for_cpu = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""A private operator of torch, hence the other way where it is missing."""


def _flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention and its log mass (..., 1); scores are not stored."""
    assert _flash_for_cpu is not None
    mask = None if mask is None else mask.to(query.dtype).expand(-1, -1, query.shape[2], -1)
    out, mass = _flash_for_cpu(query, key, value, 0.0, False, attn_mask=mask, scale=1.0)
    return out, mass.unsqueeze(-1)


def list_attention_configs(model: Any) -> list[Any]:
    """The configurations that a model's modules read the name of their attention function from."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    distinct = {id(config): config for config in configs if hasattr(config, "_attn_implementation_internal")}
    return list(distinct.values())


@contextmanager
def select_attention(configs: Sequence[Any], name: str = NAME) -> Iterator[None]:
    """Select an attention function by its name for the calls inside, and put back what was there."""
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
