"""Edited models against plain passes with plain hooks, on every cache; what is left alone; what is refused."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from tiny import VOCAB, tiny

import feynkac as fk
from feynkac.base.errors import ArgumentError, FeynkacError, ModelError
from feynkac.models.edits import (
    Add,
    Affine,
    Apply,
    Change,
    Direction,
    DivergentLM,
    Emphasise,
    Prepared,
    ProjectOut,
    Span,
    Steps,
)
from feynkac.models.language.caches import prefill
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import Anywhere
from feynkac.models.language.proposals import Drafted

PROMPTS = [[5, 9, 3, 7, 1], [4, 8], [5, 9, 3, 7, 1], [8, 2, 6, 11, 30]]


def vector(seed: int, width: int = 32, size: float = 3.0) -> torch.Tensor:
    return size * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def recompute(model: Any, layer: str, text: list[int], change: Any) -> torch.Tensor:
    """(V,) next-token logits by a plain pass with one plain hook, which knows that the pass is the whole text."""

    def hook(module: Any, args: Any, out: Any) -> Any:
        value = out[0] if isinstance(out, tuple) else out
        new = change(value, torch.arange(value.shape[1]))
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float()
    finally:
        handle.remove()


def walk(contexts: Any, prompts: list[list[int]], seed: int, check: Any, steps: int = 5) -> None:
    """Random forks, keeps and drops; `check(text, prompt number)` gives the logits wanted."""
    rng = np.random.default_rng(seed)
    texts = [(list(prompt), g) for g, prompt in enumerate(prompts)]
    torch.testing.assert_close(contexts.start(), torch.stack([check(*text) for text in texts]), atol=1e-4, rtol=1e-4)
    for _ in range(steps):
        pairs = {(int(rng.integers(len(texts))), int(rng.integers(-1, VOCAB))) for _ in range(6)}
        parents, tokens = (np.array(some) for some in zip(*sorted(pairs), strict=True))
        logits = contexts.extend(parents, tokens)
        texts = [(texts[i][0] + [t] * (t >= 0), texts[i][1]) for i, t in zip(parents, tokens.tolist(), strict=True)]
        wanted = [check(*text) for text, token in zip(texts, tokens, strict=True) if token >= 0]
        if wanted:
            torch.testing.assert_close(logits, torch.stack(wanted), atol=1e-4, rtol=1e-4)


SCOPES: dict[str, Any] = {
    "all": lambda at, start: at >= 0,
    "prompt": lambda at, start: at < start,
    "response": lambda at, start: at >= start - 1,
    "text": lambda at, start: at >= start,
    "steps": lambda at, start: (at >= start) & (at <= start + 1),
    "last tokens": lambda at, start: (at >= start - 3) & (at <= start - 1),
    "range": lambda at, start: (at >= 3) & (at < 7),
}
GIVEN: dict[str, Any] = {"steps": Steps(1, 2), "last tokens": Steps(-2, 0), "range": range(3, 7)}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "mistral", "gemma2", "bamba"])
def test_cached_runs_are_full_passes_with_the_same_hook(kind: str, scope: str) -> None:
    model, v = tiny(kind), vector(3)
    edits = Edits([Add(v, layer=0, scope=GIVEN.get(scope, scope))], Anatomy(model))
    block = Anatomy(model).name_block(0)
    contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))
    shared = kind in ("llama", "qwen3", "gpt2", "mistral")
    assert isinstance(contexts, SharedContexts if shared else PlainContexts)

    def wanted(text: list[int], g: int) -> torch.Tensor:
        def change(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            return value + SCOPES[scope](at, len(PROMPTS[g]))[:, None] * v

        return recompute(model, block, text, change)

    walk(contexts, PROMPTS, 1, wanted)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_is_read_in_several_passes_under_every_scope(kind: str, monkeypatch: Any) -> None:
    """What an edit does depends on where a token stands in the text, never on the pass that it goes through."""
    model, v = tiny(kind), vector(3)
    prompts = [list(range(3, 23)), [4, 8], list(range(3, 19)), list(range(3, 11))]  # 20, 2, 16 and 8 tokens
    scopes: list[Any] = ["all", "prompt", "response", "text", Steps(0, 0), Steps(1, 2), range(5, 14), Span("any")]
    given = [Add(v, layer=0, scope=scope) for scope in scopes]
    given += [Emphasise("any", alpha=0.1), Emphasise("any", alpha=0.1, queries="response")]
    for edit in given:
        edits = Edits([edit], Anatomy(model))
        found = []
        for length in (4096, 8):
            monkeypatch.setattr(prefill, "_PREFILL", length)
            contexts = open_contexts(Twins(model), prompts, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))
            assert isinstance(contexts, SharedContexts)
            start = contexts.start()
            after = contexts.extend(np.array([0, 1, 2, 3, 0]), np.array([5, 6, 7, 8, 9]))
            found.append(torch.cat([start, after]))
        torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


def test_one_batch_has_rows_with_different_edits_and_strengths() -> None:
    model = tiny("llama")
    kinds = [Edits([Add(vector(1), layer=1, strength=s)], Anatomy(model)) for s in (1.0, -0.5)]
    of = [kinds[0], None, kinds[1], kinds[0]]
    contexts = open_contexts(Twins(model), PROMPTS, 8, of, Anywhere(4, torch.device("cpu")))
    size = [1.0, 0.0, -0.5, 1.0]

    def wanted(text: list[int], g: int) -> torch.Tensor:
        def change(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            return value + size[g] * (at >= len(PROMPTS[g]) - 1)[:, None] * vector(1)

        return recompute(model, "model.layers.1", text, change)

    walk(contexts, PROMPTS, 2, wanted)
    before = contexts.forwarded
    again = open_contexts(Twins(model), PROMPTS, 8, of, Anywhere(4, torch.device("cpu")))
    again.start()
    assert again.forwarded == sum(map(len, PROMPTS)) <= before  # prompts 0 and 2 are alike, their edits are not


@pytest.mark.parametrize("of", ["residual", "attention", "mlp", "heads", "embedding"])
def test_every_site_is_edited_as_a_plain_hook_edits_it(of: Any) -> None:
    model, v = tiny("gpt2" if of == "mlp" else "llama"), vector(5)
    layer = None if of == "embedding" else -1
    edits = Edits([ProjectOut(v, layer=layer, of=of, scope="all")], Anatomy(model))
    contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))
    names = {
        "residual": "model.layers.1", "attention": "model.layers.1.self_attn", "mlp": "transformer.h.1.mlp",
        "heads": "model.layers.1.self_attn.o_proj", "embedding": "model.embed_tokens",
    }  # fmt: skip
    unit = v / v.norm()

    def change(value: torch.Tensor, *_: Any) -> torch.Tensor:
        return value - (value @ unit)[..., None] * unit

    def wanted(text: list[int], g: int) -> torch.Tensor:
        if of != "heads":
            return recompute(model, names[of], text, change)
        place = model.get_submodule(names[of])
        handle = place.register_forward_pre_hook(lambda module, args: (change(args[0]),))
        try:
            with torch.inference_mode():
                return model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float()
        finally:
            handle.remove()

    walk(contexts, PROMPTS, 3, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_directions_that_say_the_same_take_out_what_they_span_and_no_more(dtype: torch.dtype) -> None:
    v, w, h = vector(1).to(dtype), vector(2, size=1e-3).to(dtype), vector(3)[None, None]
    amount = torch.ones(1, 1, 1)

    def take_out(*vectors: torch.Tensor) -> torch.Tensor:
        return ProjectOut(torch.stack(vectors), layer=0).change(h, amount, 0, None)  # pyright: ignore

    torch.testing.assert_close(take_out(v, v, 2.0 * v), take_out(v))
    torch.testing.assert_close(take_out(v, w, v), take_out(v, w))
    if dtype == torch.float32:
        torch.testing.assert_close(take_out(v, w, v + 1e3 * w), take_out(v, w))
    left = take_out(v, w)[0, 0]
    assert (left @ v.float()).abs() < 1e-4 and (left @ w.float()).abs() < 1e-4 < (h - left).abs().max()


def test_vectors_written_to_later_are_those_of_the_edit(tiny_lm: Any) -> None:
    lm, ids = tiny_lm("a", "b"), [1, 2, 1]
    for kind in (Add, ProjectOut):
        v = vector(1, 16)
        edited = lm.edited(kind(v, layer=0))
        edited.open([ids], 3).start()
        v.copy_(vector(2, 16))
        wanted = lm.edited(kind(v.clone(), layer=0)).open([ids], 3).start()
        torch.testing.assert_close(edited.open([ids], 3).start(), wanted)


def test_edits_apply_in_their_order_and_undo_each_other(tiny_lm: Any) -> None:
    lm, v, w = tiny_lm("a", "b"), vector(1, 16), vector(2, 16)

    def logits(*edits: Any) -> torch.Tensor:
        return lm.edited(*edits).open([[1, 2, 1]], 4).start()

    base, there = lm.open([[1, 2, 1]], 4).start(), Add(v, layer=0)
    torch.testing.assert_close(logits(there, Add(v, layer=0, strength=-1.0)), base, atol=1e-5, rtol=1e-5)
    once = logits(ProjectOut(w, layer=0))
    torch.testing.assert_close(logits(ProjectOut(w, layer=0), ProjectOut(w, layer=0)), once, atol=1e-5, rtol=1e-5)
    assert (logits(there, ProjectOut(v, layer=0)) - logits(ProjectOut(v, layer=0), there)).abs().max() > 0.01
    chained = lm.edited(there).edited(ProjectOut(v, layer=0)).open([[1, 2, 1]], 4).start()
    assert chained.equal(logits(there, ProjectOut(v, layer=0)))
    swap = Affine(torch.eye(16).flip(0), v, layer=1)
    direct = Apply(lambda h: h.flip(-1) + v, layer=1)
    torch.testing.assert_close(logits(swap), logits(direct), atol=1e-5, rtol=1e-5)


def test_strength_zero_is_the_model_itself_bit_for_bit(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    nothing = lm.edited(Add(vector(1, 16), layer=0, strength=0))
    for task in (lm.prompt("a", max_tokens=5), nothing.prompt("a", max_tokens=5)):
        assert (
            fk.steer(task, particles=8, seed=1).texts
            == fk.steer(lm.prompt("a", max_tokens=5), particles=8, seed=1).texts
        )
    assert nothing.open([[1]], 3).start().equal(lm.open([[1]], 3).start())


def test_a_schedule_and_a_probe_set_the_strength() -> None:
    model, v = tiny("llama"), vector(7)
    decaying = Add(v, layer=0, strength=lambda steps: 0.5 ** steps.clamp(min=0).float())
    gated = Add(v, layer=0, scope="all", when=lambda h: h[..., 0] > 0)
    for edit, amount in (
        (
            decaying,
            lambda value, at, start: (0.5 ** (at - start + 1).clamp(min=0).float() * (at >= start - 1))[:, None],
        ),
        (gated, lambda value, at, start: (value[..., :1] > 0).float()),
    ):
        edits = Edits([edit], Anatomy(model))
        contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))

        def wanted(text: list[int], g: int, amount: Any = amount) -> torch.Tensor:
            start = len(PROMPTS[g])
            return recompute(model, "model.layers.0", text, lambda value, at: value + amount(value, at, start) * v)

        walk(contexts, PROMPTS, 4, wanted)


def test_vectors_by_position_stand_at_their_positions() -> None:
    """ActAdd: one vector for each of the first tokens."""
    # Phrases that begin alike differ in nothing at first, as behind every beginning of sequence.
    model, rows = tiny("llama"), torch.stack([0.0 * vector(1), vector(2), vector(3)])
    edits = Edits([Add(rows, layer=0, scope=range(1, 4))], Anatomy(model))
    contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))

    def wanted(text: list[int], g: int) -> torch.Tensor:
        whole = torch.zeros(len(text), 32)
        whole[1:4] = rows[: max(0, len(text) - 1)]
        return recompute(model, "model.layers.0", text, lambda value, at: value + whole)

    walk(contexts, PROMPTS, 5, wanted)


def test_the_length_of_an_activation_is_kept_where_asked() -> None:
    model = tiny("llama")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    edit = Add(vector(1), layer=0, keep_norm=True, scope="all")
    watch = Apply(lambda h: (seen.append((h, h)), h)[1], layer=0, scope="all")
    contexts = open_contexts(
        Twins(model), [[5, 9]], 4, [Edits([watch, edit, watch], Anatomy(model))], Anywhere(1, torch.device("cpu"))
    )
    seen.clear()
    contexts.start()
    (before, _), (after, _) = seen
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
    assert not after.allclose(before)


def test_a_span_of_the_prompt_is_edited_and_nothing_else(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    v = vector(1, 16)
    edited = lm.edited(Add(v, layer=0, scope=Span("ba")))
    found = edited.prompt("aabaa", max_tokens=3)
    ids = found.prompts[0].tokens
    logits = edited.open([ids], 4).start()[0]

    def change(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return value + ((at == 2) | (at == 3))[:, None] * v

    torch.testing.assert_close(logits, recompute(lm.model, "model.layers.0", list(ids), change), atol=1e-5, rtol=1e-5)
    with pytest.raises(ArgumentError, match="does not hold 'bb'"):
        lm.edited(Add(v, layer=0, scope=Span("bb"))).prompt("aabaa")
    with pytest.raises(ArgumentError, match="occurs 3 times in the prompt; say which: Span"):
        lm.edited(Add(v, layer=0, scope=Span("a"))).prompt("aaba")
    with pytest.raises(ArgumentError, match="at=5 is none of them"):
        lm.edited(Add(v, layer=0, scope=Span("a", at=5))).prompt("aaba")


def test_the_users_model_is_left_as_it_is_after_runs_errors_and_threads(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()]
    models = [lm.edited(Add(vector(s, 16), layer=s % 2)) for s in range(3)] + [lm]
    alone = [fk.steer(one.prompt("a", max_tokens=6), particles=6, seed=4).texts for one in models]
    found: dict[int, Any] = {}

    def run(i: int) -> None:
        found[i] = fk.steer(models[i % 4].prompt("a", max_tokens=6), particles=6, seed=4).texts

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == alone * 2
    with pytest.raises(ModelError, match=r"gave NaN or infinity at model\.layers\.0"):
        fk.steer(lm.edited(Apply(lambda h: h * float("nan"), layer=0)).prompt("a", max_tokens=3), particles=2)
    assert all(value.equal(before[name]) for name, value in lm.model.state_dict().items())
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()]


def test_a_users_hook_counts_also_one_put_on_later(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    edited = lm.edited(Add(vector(1, 16), layer=0, scope="all"))
    before = edited.open([[1, 2]], 3).start()
    handle = lm.model.model.layers[0].register_forward_hook(lambda module, args, out: out * 1.5)
    both = edited.open([[1, 2]], 3).start()
    wanted = recompute(lm.model, "model.layers.0", [1, 2], lambda value, at: value + vector(1, 16))
    handle.remove()
    torch.testing.assert_close(both[0], wanted, atol=1e-5, rtol=1e-5)  # the user's first, then the edit
    assert not both.allclose(before)
    handle = lm.model.model.layers[0].register_forward_hook(
        lambda module, args, out: out + 3.0 * torch.randn(16, generator=torch.Generator().manual_seed(0))
        * (torch.arange(out.shape[1]) > 0)[:, None]
    )  # fmt: skip
    with pytest.raises(ModelError, match="acts on the place of a token in a pass"):
        edited.open([[1, 2]], 3)
    handle.remove()


def test_an_edit_that_goes_by_the_place_within_a_pass_is_refused(tiny_lm: Any) -> None:
    class Misplaced:
        def prepare(self, anatomy: Anatomy) -> Prepared:
            def act(value: Any, given: Any, where: Any) -> Any:
                return value + vector(1, 16) * (torch.arange(value.shape[1]) > 0)[:, None]

            return Prepared([Change(anatomy.name_block(0), act)])

        def __repr__(self) -> str:
            return "Misplaced()"

    with pytest.raises(ModelError, match=r"with Misplaced\(\) gives other logits with its cache"):
        tiny_lm("a", "b").edited(Misplaced()).open([[1, 2]], 3)


def test_programs_use_base_and_edited_models_at_once(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    edited = lm.edited(Add(vector(2, 16), layer=1))

    @fk.program
    def both(p: Any) -> str:
        one, other = lm.context("a"), edited.context("a")
        token = p.sample(one.next_token(), proposal=other.next_token())
        return str(token)

    result = fk.steer(both(), particles=64, seed=0)
    assert len(result.texts) > 0 and abs(result.log_evidence) < 1.0


def test_numbers_and_vectors_are_those_of_python_numpy_and_torch_alike(tiny_lm: Any) -> None:
    """Half precision, whole numbers, arrays, lists; strengths as scalars of numpy and as 0-d tensors."""
    lm = tiny_lm("a", "b")
    v = torch.tensor([1.0, -2.0, 3.0, 0.0] * 4)

    def score(edit: Any) -> Any:
        return lm.edited(edit).score("ab", ["ba"])

    wanted = score(Add(v, layer=1, strength=0.5))
    learned = torch.nn.Parameter(v.clone())
    listed = (v.tolist(), {1: v.tolist()}, v[None], learned)
    for same in (v.half(), v.double(), v.long(), v.numpy(), v.long().numpy(), *listed):
        assert score(Add(same, layer=1, strength=0.5)) == wanted
    for strength in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)):
        assert score(Add(v, layer=1, strength=strength)) == wanted  # pyright: ignore[reportArgumentType]
    for layer in (-1, [1], (1,), range(1, 2), np.array([1]), np.int64(1), torch.tensor(1), [1, -1]):
        assert score(Add(v, layer=layer, strength=0.5)) == wanted  # pyright: ignore[reportArgumentType]
    matrix, offset = torch.eye(16) * 0.5, torch.ones(16)
    assert score(Affine(matrix.numpy(), offset.numpy(), layer=1)) == score(Affine(matrix, offset, layer=1))  # pyright: ignore[reportArgumentType]
    assert score(Emphasise("a", alpha=np.float32(0.5))) == score(Emphasise("a", alpha=0.5))  # pyright: ignore[reportArgumentType]


def test_a_probe_of_another_shape_is_refused_by_what_it_gave(tiny_lm: Any) -> None:
    edit = Add(torch.ones(16), layer=0, when=lambda value: value > 0)
    with pytest.raises(FeynkacError, match="one for each token"):
        tiny_lm("a", "b").edited(edit).score("ab", ["ba"])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Apply(lambda h: h.foo(), layer=1), "failed at model.layers.1: AttributeError"),
        (Apply(lambda h: h[..., :3], layer=1), "failed at model.layers.1: RuntimeError"),
        (Add(torch.ones(16), layer=1, strength=lambda steps: 1.0), "failed at model.layers.1: a strength gave 1.0"),  # pyright: ignore
        (Add(torch.ones(16), layer=1, when=lambda h: h > 0), "failed at model.layers.1: a probe gave"),
    ],
)
def test_an_edit_that_fails_is_named_with_its_place_and_its_cause(tiny_lm: Any, edit: Any, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        tiny_lm("a", "b").edited(edit).score("ab", ["ba"])
    assert said in str(caught.value) and type(edit).__name__ in str(caught.value)


def test_a_model_edited_twice_has_both_edits_and_one_edited_by_nothing_is_itself(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    one, two = Add(vector(1, 16), layer=0), Add(vector(2, 16), layer=1)
    twice = lm.edited(one).edited(two)
    assert twice.edits == (one, two) and twice.plain is lm
    assert twice.score("ab", ["ba"]) == lm.edited(one, two).score("ab", ["ba"])
    assert lm.edited().score("ab", ["ba"]) == lm.score("ab", ["ba"])


def errors(lm: Any) -> dict[str, Any]:
    v = vector(1, 16)
    return {
        "this model has layers 0..1": lambda: lm.edited(Add(v, layer=40)),
        "needs layer=": lambda: lm.edited(Add(v)),
        "a direction of 20 numbers for layers of 16: it belongs to another model": lambda: lm.edited(
            Add(torch.ones(20), layer=0)
        ),
        "has length 0": lambda: lm.edited(Add(torch.zeros(16), layer=0)),
        "holds NaN": lambda: lm.edited(Add(v * float("nan"), layer=0)),
        "strength is nan": lambda: lm.edited(Add(v, layer=0, strength=float("nan"))),
        "has no vector for layer 1": lambda: lm.edited(Add({0: v}, layer=1)),
        "scope is 'answer'": lambda: lm.edited(Add(v, layer=0, scope="answer")),  # pyright: ignore[reportArgumentType]
        "of is 'heart'": lambda: lm.edited(Add(v, layer=0, of="heart")),  # pyright: ignore[reportArgumentType]
        "leave out layer=": lambda: lm.edited(Add(v, layer=0, of="embedding")),
        "need a scope of as many positions": lambda: lm.edited(Add(torch.ones(3, 16), layer=0)),
        "a map of": lambda: lm.edited(Affine(torch.eye(4), torch.ones(4), layer=0)),
        "edit 0 is": lambda: lm.edited(v),
        "strength is '2'": lambda: lm.edited(Add(v, layer=0, strength="2")),  # pyright: ignore[reportArgumentType]
        "strength is True": lambda: lm.edited(Add(v, layer=0, strength=True)),
        "when is 0.5; give a probe": lambda: lm.edited(Add(v, layer=0, when=0.5)),  # pyright: ignore[reportArgumentType]
        "layer '0' does not exist": lambda: lm.edited(Add({"0": v})),
        "has those of [-1], counted from 0": lambda: lm.edited(Add({-1: v})),
        "has no vector for layer 0; give a tensor, an array, or {layer: vector}": lambda: lm.edited(
            Add(object(), layer=0)
        ),
        "by layer are written dict(enumerate(vectors))": lambda: lm.edited(Add(torch.ones(2, 16), layer=[0, 1])),
        "a direction is (1, 1, 16); give (16,), or {layer: (16,)}": lambda: lm.edited(
            Add(torch.ones(1, 1, 16), layer=0)
        ),
        "keys that JSON has made texts": lambda: lm.edited(Add({"0": v})),
        "edit 0 is a tuple of edits; unpack it": lambda: lm.edited((Add(v, layer=0),)),  # pyright: ignore
        "give whole numbers": lambda: Steps(0.5),  # pyright: ignore[reportArgumentType]
        "the direction NoneType has no vector": lambda: lm.edited(Add(None, layer=0)),
        "found of='mlp' and the edit is of='residual'": lambda: lm.edited(Add(Direction({0: v}, of="mlp"))),
        "found of='attention' and the edit is of='heads'": lambda: lm.edited(
            ProjectOut(Direction({0: v}, of="attention"), of="heads")
        ),
        "blocks='nowhere' is no list of modules": lambda: lm.edited(Add(v, layer=0), blocks="nowhere"),
        "has no steps": lambda: Steps(3, 1),
        "is empty, goes back": lambda: lm.edited(Add(v, layer=0, scope=range(3, 3))),
        "mix is 1.0": lambda: lm.prompt("a", proposal=lm.prompt("a"), mix=1.0),
        "leaves out tokens that the target has": lambda: lm.prompt("a", proposal=lm.prompt("a", top_k=1), mix=0.0),
    }


@pytest.mark.parametrize("wanted", list(errors(None)))
def test_an_edit_that_does_not_fit_is_refused_where_it_is_made(tiny_lm: Any, wanted: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        errors(tiny_lm("a", "b"))[wanted]()
    assert wanted in str(caught.value)


def test_layers_that_cannot_be_found_can_be_named(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    model = tiny("llama", num_hidden_layers=2)
    model.config.num_hidden_layers = 7
    with pytest.raises(
        ModelError, match=r"cannot find the 7 layers .* blocks='model.layers'\). .*'model.layers' \(2\)"
    ):
        Anatomy(model)
    assert Anatomy(model, "model.layers").n_layers == 2
    named = lm.edited(Add(vector(1, 16), layer=0), blocks="model.layers")
    assert named.open([[1]], 2).start().equal(lm.edited(Add(vector(1, 16), layer=0)).open([[1]], 2).start())


def test_base_and_edited_contexts_of_a_program_share_each_pass(tiny_lm: Any, monkeypatch: Any) -> None:
    lm = tiny_lm("a", "b")
    edited = lm.edited(Add(vector(2, 16), layer=1))
    lm.open([[1]], 2), edited.open([[1]], 2)  # the self-checks
    passes: list[int] = []
    forward = SharedContexts._forward
    monkeypatch.setattr(
        SharedContexts,
        "_forward",
        lambda self, plan, tokens: passes.append(len(plan.rows)) or forward(self, plan, tokens),
    )

    @fk.program
    def alternate(p: Any, second: Any) -> str:
        one, other = lm.context("a"), second.context("a")
        for _ in range(3):
            token = p.sample(one.next_token())
            p.factor(other.next_token().log_prob(token))
            if one.ended:
                break
            other.append(token)
        return str(one)

    fk.steer(alternate(edited), particles=1, seed=0)
    assert passes and max(passes) == 2  # both contexts of the particle in one pass
    reference = [fk.steer(alternate(edited), particles=4, seed=s).log_evidence for s in range(3)]

    far = pickle.loads(pickle.dumps(edited))  # the same law, of another model object
    np.testing.assert_allclose(
        [fk.steer(alternate(far), particles=4, seed=s).log_evidence for s in range(3)], reference, atol=1e-5
    )


def test_an_edited_model_is_pickled_with_its_edits(tiny_lm: Any) -> None:
    edited = tiny_lm("a", "b").edited(Add(vector(1, 16), layer=0), Emphasise("b", alpha=0.1))
    again = pickle.loads(pickle.dumps(edited))
    ids = edited.begin("aab")
    assert again.open([ids], 3).start().equal(edited.open([ids], 3).start())


def test_prompts_of_edited_models_are_pickled_with_them(tiny_lm: Any) -> None:
    edited = tiny_lm("a", "b").edited(Add(vector(1, 16), layer=0))
    task = edited.prompt("ab", max_tokens=4)
    again, lm = pickle.loads(pickle.dumps((task, edited)))
    assert again.lm is lm and again.prompts[0].variant is lm.variant
    one, other = (fk.steer(each, particles=4, seed=0) for each in (task, again))
    assert one.samples == other.samples


def test_a_prompt_that_edits_do_not_fit_is_refused_wherever_it_is_run(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    marked = lm.edited(Add(vector(1, 16), layer=0, scope=Span("b")))
    runs = [
        lambda: DivergentLM(lm, *marked.edits).prompt("aa"),
        lambda: fk.bytewise(marked).prompt("aa"),
        lambda: fk.steer(fk.ensemble([marked.prompt("ab"), lm.prompt("a")]).lm.prompt("aa", max_tokens=2), seed=0),
        lambda: fk.steer(lm.prompt("aa", max_tokens=2, proposal=Drafted(marked)), seed=0),
        lambda: marked.open([[1, 1]], 2),
    ]
    for run in runs:
        with pytest.raises(ArgumentError, match="the prompt does not hold 'b'"):
            run()


def test_edits_of_several_models_do_not_share_a_batch(tiny_lm: Any) -> None:
    one, other = tiny_lm("a", "b"), tiny_lm("a", "b", seed=1)
    v = vector(1, 16)
    tasks = [one.edited(Add(v, layer=0)).prompt("a", max_tokens=2), one.prompt("a", max_tokens=2)]
    assert len(fk.steer(tasks, particles=2, seed=0)) == 2
    with pytest.raises(ArgumentError, match="and its edits"):
        fk.steer([tasks[0], other.prompt("a", max_tokens=2)], particles=2)
