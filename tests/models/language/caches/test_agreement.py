"""What the self-check of one edit says of others, and what has to be checked for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny

from feynkac.base.errors import ModelError
from feynkac.models.edits import (
    Add,
    Affine,
    Apply,
    BiasAttention,
    Change,
    Clamp,
    Emphasise,
    Mechanism,
    Prepared,
    ProjectOut,
    ScaleHeads,
    Shift,
    SkipLayers,
    Span,
)
from feynkac.models.language.caches import agreement
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import Anywhere

PROMPT = [5, 9, 3, 7, 1]


def vector(seed: int, size: float = 3.0) -> torch.Tensor:
    found = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return size * found / found.norm()


class Autoencoder:
    """Features that are the activations."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return feature_acts


def act(number: float, value: torch.Tensor) -> torch.Tensor:
    """An addition that goes by the place within the pass: every second token has more of it."""
    return value + number * (1.0 + torch.arange(value.shape[1]) % 2)[:, None] * vector(1)


@dataclass(frozen=True)
class Misplaced:
    """A mechanism that is wrong, and says that it is all numbers."""

    number: float

    def prepare(self, anatomy: Anatomy) -> Prepared:
        return Prepared([Change(anatomy.name_block(0), lambda value, given, where: act(self.number, value))])

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism:
        return Mechanism("misplaced", (self.number,))


class Checks:
    """A model's twins, and which edits walked, since it was asked last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Any = None) -> None:
        self.model = tiny("llama") if model is None else model
        self.twins, self._walked = Twins(self.model), list[Any]()
        walk = agreement._walk_and_compare

        def note(twins: Any, edits: Edits | None, opened: Any) -> float:
            self._walked.append(edits)
            return walk(twins, edits, opened)

        monkeypatch.setattr(agreement, "_walk_and_compare", note)
        self.open([])

    def open(self, *kinds: Any) -> int:
        """Open a batch of one prompt for each list of edits; how many of them were checked."""
        self._walked.clear()
        edits = [Edits(some, Anatomy(self.model)) for some in kinds]
        spans = Anywhere(len(kinds), torch.device("cpu"))
        self.contexts = open_contexts(self.twins, [PROMPT] * len(kinds), 4, edits, spans)
        return sum(edits is not None for edits in self._walked)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    return Checks(monkeypatch)


def test_thirty_two_strengths_of_one_vector_are_checked_once(checks: Checks) -> None:
    strengths = [0.3 * 1.07**i for i in range(32)]  # from 0.3 to 2.4
    assert checks.open(*([Add(vector(0), layer=0, strength=s)] for s in strengths)) == 1
    assert isinstance(checks.contexts, SharedContexts)
    logits = checks.contexts.start()  # exact for each of them all the same
    for strength, found in zip(strengths, logits, strict=True):
        handle = checks.model.model.layers[0].register_forward_hook(
            lambda module, args, out, strength=strength: (
                out + strength * vector(0) * (torch.arange(out.shape[1]) >= len(PROMPT) - 1)[:, None]
            )
        )
        with torch.inference_mode():
            wanted = checks.model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
        handle.remove()
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


NUMBERS: dict[str, Any] = {
    "other vectors": lambda i: Add(vector(i), layer=0, keep_norm=True),
    "a mapping of vectors": lambda i: Add({0: vector(i), 1: vector(i + 9)}, scope="all"),
    "vectors by position": lambda i: Add(torch.stack([vector(i), vector(i + 9)]), layer=0, scope=range(2, 4)),
    "vectors in parts of the prompt": lambda i: Add(vector(i), layer=1, scope=Span(f"part {i}")),
    "directions taken out": lambda i: ProjectOut(vector(i), layer=0, strength=1 - 0.1 * i),
    "layers left out": lambda i: SkipLayers(1),
    "heads scaled": lambda i: ScaleHeads({(0, 1): 0.1 * i, (1, 2): -1.0}),
    "emphasis on other parts": lambda i: Emphasise(f"part {i}", alpha=0.1 / (i + 1), heads={0: [1], 1: [0, 2]}),
    "biases of tokens": lambda i: BiasAttention(bias=torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0]) * (i + 1)),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("llama", kind) for kind in NUMBERS), ("gemma2", "other vectors"), ("gemma2", "emphasis on other parts")],
)
def test_edits_that_differ_in_numbers_only_are_checked_once(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the shared cache, and by the model's own."""
    checks = Checks(monkeypatch, tiny(name))
    assert checks.open([NUMBERS[kind](0)]) == 1
    assert checks.open([NUMBERS[kind](1)], [NUMBERS[kind](2)]) == 0
    assert isinstance(checks.contexts, SharedContexts if name == "llama" else PlainContexts)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # of peft
def test_adapters_of_one_shape_are_checked_once(checks: Checks, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from feynkac.models.edits import Adapter

    for seed, rank in enumerate((2, 2, 3)):
        torch.manual_seed(seed)
        model = peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=rank, target_modules=["q_proj", "down_proj"]))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0.0, 0.4)
        model.save_pretrained(tmp_path / str(seed))
    folders = [tmp_path / str(seed) for seed in range(3)]
    assert [checks.open([Adapter(folder)]) for folder in folders] == [1, 0, 1]
    assert checks.open([Adapter(folders[1], strength=-0.5)]) == 0
    assert checks.open([Adapter(folders[1], scope="response")]) == 1


DIFFERENT: dict[str, Any] = {
    "layer": lambda: Add(vector(0), layer=1),
    "place in the layer": lambda: Add(vector(0), layer=0, of="mlp"),
    "scope": lambda: Add(vector(0), layer=0, scope="text"),
    "way of adding": lambda: Add(vector(0), layer=0, keep_norm=True),
    "class": lambda: ProjectOut(vector(0), layer=0),
    "size, above": lambda: Add(vector(0), layer=0, strength=11.0),
    "size, below": lambda: Add(vector(0), layer=0, strength=-0.09),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_an_edit_of_another_mechanism_or_size_is_checked(checks: Checks, what: str) -> None:
    assert checks.open([Add(vector(0), layer=0)]) == 1
    assert checks.open([DIFFERENT[what]()]) == 1
    assert checks.open([Add(vector(5), layer=0, strength=-9.0)], [Add(vector(6), layer=0, strength=0.11)]) == 0


def test_each_part_of_an_edit_is_measured_for_itself(checks: Checks) -> None:
    """A vector that is strong in one layer and weak in another says nothing of those that are strong in the other."""
    assert checks.open([Add({0: vector(0), 1: vector(1, 1e-3)})]) == 1
    assert checks.open([Add({0: vector(0), 1: vector(1)})]) == 1
    assert checks.open([Add({0: vector(2), 1: vector(3)})], [Add({0: vector(2), 1: vector(3, 1e-3)})]) == 0
    assert checks.open([Add(vector(0), layer=0), Add(vector(1), layer=1)]) == 1  # two edits
    assert checks.open([Add(vector(0), layer=0), Add(vector(1, 1e-3), layer=1)]) == 1


OWN: dict[str, Any] = {
    "a function": lambda: Apply(lambda h: 2 * h, layer=0),
    "a schedule": lambda: Add(vector(0), layer=0, strength=lambda steps: steps * 0.1 + 1.0),
    "a probe": lambda: Add(vector(0), layer=0, when=lambda h: h.sum(-1) > 0),
    "features": lambda: Clamp(Autoencoder(), {3: 1.0}, layer=0),
    "an affine map": lambda: Affine(matrix=0.5 * torch.eye(32), offset=vector(0), layer=0),
    "weights": lambda: Shift({"model.layers.0.mlp.down_proj.weight": 0.1 * torch.ones(32, 48)}),
}


@pytest.mark.parametrize("what", OWN)
def test_functions_of_the_state_are_checked_for_themselves(checks: Checks, what: str) -> None:
    made = OWN[what]()
    assert checks.open([made]) == 1 and checks.open([made]) == 1
    assert checks.open([Add(vector(0), layer=1), made]) == 1 and checks.open([Add(vector(0), layer=1), made]) == 1


def test_a_class_derived_from_an_edit_is_checked_for_itself(checks: Checks) -> None:
    class AddMisplaced(Add):
        def change(self, value: torch.Tensor, amount: Any, layer: int, where: Any) -> torch.Tensor:
            return act(1.0, value)

    class AddTwice(Add):
        def change(self, value: torch.Tensor, amount: Any, layer: int, where: Any) -> torch.Tensor:
            return value + 2 * amount * vector(0)

    assert checks.open([Add(vector(0), layer=0)]) == 1
    with pytest.raises(ModelError, match="acts on the place of a token in a pass"):
        checks.open([AddMisplaced(vector(0), layer=0)])
    assert checks.open([AddTwice(vector(0), layer=0)]) == 1 and checks.open([AddTwice(vector(0), layer=0)]) == 1


def test_a_mechanism_that_is_wrong_is_refused_at_every_size(checks: Checks) -> None:
    for number in (1.0, 1.1, 0.01, 5.0):
        with pytest.raises(ModelError, match="acts on the place of a token in a pass"):
            checks.open([Misplaced(number)])


def test_an_edit_too_weak_to_show_a_fault_speaks_for_no_other(checks: Checks) -> None:
    assert checks.open([Misplaced(1e-7)]) == 1  # rounding hides it
    assert checks.open([Misplaced(3e-7)]) == 1
    assert checks.open([Add(vector(0, 1e-7), layer=0)]) == 1 and checks.open([Add(vector(1, 1e-7), layer=0)]) == 1
    number = 1e-7
    with pytest.raises(ModelError, match="acts on the place of a token in a pass"):
        while number < 1.0:  # each within the size that the one before could speak for
            number *= 5.0
            checks.open([Misplaced(number)])
    assert number < 1e-4


def test_where_functions_of_the_users_hook_into_the_model_each_edit_is_checked(monkeypatch: Any) -> None:
    """A hook may go by the place within a pass only where activations are large."""
    model = tiny("llama")

    def hook(module: Any, args: Any, out: Any) -> Any:
        return act(1.0, out) if out.norm(dim=-1).max() > 40 else out

    model.model.layers[0].register_forward_hook(hook)
    checks = Checks(monkeypatch, model)
    assert checks.open([Add(vector(0, 6.0), layer=0)]) == 1
    assert checks.open([Add(vector(1, 6.0), layer=0)]) == 1
    handle = model.model.layers[1].register_forward_pre_hook(
        lambda module, args: (act(1.0, args[0]), *args[1:]) if args[0].norm(dim=-1).max() > 40 else None
    )
    checks.twins = Twins(model)
    assert checks.open([Add(vector(0, 6.0), layer=0)]) == 1
    with pytest.raises(ModelError, match="acts on the place of a token in a pass"):
        checks.open([Add(vector(0, 55.0), layer=0)])
    handle.remove()


def test_an_edit_of_strength_zero_needs_no_check(checks: Checks) -> None:
    nothing = [Add(vector(0), layer=0, strength=0.0), Emphasise("a", alpha=1.0)]
    assert checks.open(nothing, []) == 0


def test_the_model_without_edits_is_recomputed_once_for_all_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Edits | None] = []
    recompute = agreement.recompute
    monkeypatch.setattr(
        agreement,
        "recompute",
        lambda twins, edits, *texts: passes.append(edits) or recompute(twins, edits, *texts),
    )
    checks = Checks(monkeypatch)
    assert checks.open([Add(vector(0), layer=0)], [Affine(matrix=2 * torch.eye(32), offset=vector(0), layer=1)]) == 2
    assert [edits is None for edits in passes] == [True, False, False]
    with torch.no_grad():
        checks.model.lm_head.weight.mul_(2.0)  # other weights, other logits
    assert checks.open([Add(vector(0), layer=1)]) == 1
    assert [edits is None for edits in passes[3:]] == [False, True]


def test_a_check_holds_for_one_cache_and_one_precision(checks: Checks) -> None:
    assert checks.open([Add(vector(0), layer=0)]) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert checks.open([Add(vector(1), layer=0)]) == 1
    checks.twins = Twins(checks.model)  # as after any change of the model
    assert checks.open([Add(vector(2), layer=0)]) == 1


@pytest.mark.parametrize("size", range(2, 10))
def test_edits_of_a_model_of_few_tokens_are_right(tiny_lm: Any, size: int) -> None:
    """Of five tokens, one prompt of the walk begins as the other does, and they are edited at other places."""
    lm = tiny_lm(*"abcdefgh"[: size - 1])
    edited = lm.edited(Emphasise("a", alpha=0.1), Add(torch.ones(16), layer=0))
    assert edited.open([[1, 0]], 2).start().isfinite().all()
