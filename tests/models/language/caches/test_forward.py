"""The cache of a model whose arguments and outputs are named in any of the ways that transformers has had."""

from __future__ import annotations

import inspect
import itertools
import warnings
from typing import Any

import pytest
import torch

from feynkac.base.errors import ModelError
from feynkac.models.language.caches.forward import CACHE, Forward


class Output(dict):
    """An output with the fields that it is made of; other names are deprecated ones."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            warnings.warn(f"{name} is deprecated", FutureWarning, stacklevel=2)
        return self.get(name)


class Counting(torch.nn.Module):
    """A model of one token id whose logit is the number of tokens so far, kept in the cache: a list.

    `argument` and `field` name the cache; all other arguments are swallowed, and written to `swallowed`.
    """

    def __init__(self, argument: str, field: str, forgets: bool = False) -> None:
        super().__init__()

        def forward(**given: Any) -> Output:
            cache = given.pop(argument, None)
            self.swallowed = set(given)
            cache = [0] if cache is None or forgets else cache
            seen = torch.arange(1, given["input_ids"].shape[1] + 1) + cache[0]
            cache[0] = int(seen[-1])
            return Output({"logits": seen[None, :, None], **({field: cache} if field else {})})

        names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("input_ids", argument)]
        rest = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
        forward.__signature__ = inspect.Signature([*names, rest])  # pyright: ignore[reportFunctionMemberAccess]
        self.forward = forward

    def get_output_embeddings(self) -> None:
        return None


class Wrapped(torch.nn.Module):
    """A wrapper as those of adapters and compilers are."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.layers, self.model = torch.nn.ModuleList([torch.nn.Linear(1, 1)]), model

    def forward(self, *args: Any, **kwargs: Any) -> Output:
        return self.model(*args, **kwargs)

    def get_output_embeddings(self) -> None:
        return None


IDS = torch.zeros(1, 3, dtype=torch.int64)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped])
@pytest.mark.parametrize(("argument", "field"), list(itertools.product(CACHE, CACHE)))
def test_the_cache_goes_in_and_comes_back(argument: str, field: str, wrap: Any) -> None:
    model = Counting(argument, field)
    forward = Forward(wrap(model))
    logits, _, cache = forward.last(IDS)
    assert logits.tolist() == [[3.0]]
    logits, _, again = forward.last(IDS[:, :1], cache)
    assert logits.tolist() == [[4.0]]
    assert again is cache
    assert model.swallowed == {"input_ids", "use_cache", "return_dict"}


def test_a_model_without_a_cache_is_refused() -> None:
    with pytest.raises(ModelError, match="Counting takes no cache"):
        Forward(Counting("state", "state"))
    with pytest.raises(ModelError, match="Counting returns no cache"):
        Forward(Counting("cache", "")).last(IDS)


def test_a_cache_that_is_ignored_is_noticed() -> None:
    forward = Forward(Counting("cache", "cache", forgets=True))
    cache = forward.last(IDS).cache
    with pytest.raises(ModelError, match="Counting returns another cache than it is given as cache"):
        forward.last(IDS, cache)
