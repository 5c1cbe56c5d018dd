"""What is sent to workers and back: large parts once, one vocabulary for all, and a name for what cannot be sent."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import feynkac as fk
from feynkac.steering.algorithms import Plan
from feynkac.steering.executors.packing import Packer, Store, fingerprint, reload, unpack
from feynkac.steering.executors.pieces import Call, cut, run_piece
from feynkac.steering.executors.sending import pack_call
from feynkac.steering.problems import read_problems

PLAN = Plan("smc", 8, 2, "ssp", 0.5, None)


def make_call(source: Any, *potentials: Any) -> Call:
    return Call(read_problems(source, potentials), PLAN, 3)


def fill(store: Store, packer: Packer, parcel: Any) -> list[str]:
    """Send a worker the parts that it lacks; their keys."""
    sent = [key for key in parcel.parts if key not in store]
    for key in sent:
        store.put(key, store.load(packer.pack_part(parcel.parts[key]).body))
    return sent


def test_a_call_that_is_sent_gives_what_it_gives_here(tiny_lm) -> None:
    lm, packer, store = tiny_lm(), Packer(), Store()
    call = make_call([lm.prompt("a", max_tokens=4), lm.prompt("b", max_tokens=3)], fk.regex("[ab]*"), score)
    parcel = pack_call(packer, call)
    fill(store, packer, parcel)
    (piece,) = cut(call, 1)
    here = run_piece(call, piece, lambda step: None)
    there = run_piece(store.load(parcel.body), piece, lambda step: None)
    back = unpack(store.dump(there), parcel.parts)
    assert [result.texts for result in back.results] == [result.texts for result in here.results]
    assert back.piece == piece and back.complete


def score(text: str) -> float:
    return float(text.count("ab"))


def test_a_model_is_sent_once_and_again_only_when_it_has_changed(tiny_lm) -> None:
    lm, packer, store = tiny_lm(), Packer(), Store()
    call = make_call(lm.prompt("a", max_tokens=4), score)
    first = pack_call(packer, call)
    assert len(fill(store, packer, first)) == 3  # weights, vocabulary, and the model that has both
    kept = store.load(first.body).problems.models[0].lm
    fk.steer(call.problems.models[0], particles=4)  # a run changes nothing of it
    again = pack_call(packer, make_call(lm.prompt("b", max_tokens=4), lambda text: 0.0))
    assert fill(store, packer, again) == [] and store.load(again.body).problems.models[0].lm is kept
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(1.5)
    changed = pack_call(packer, call)
    store.forget(packer.live, changed.parts)
    assert len(fill(store, packer, changed)) == 2  # all but the vocabulary
    twin = store.load(changed.body).problems.models[0].lm
    assert torch.equal(twin.model.lm_head.weight, lm.model.lm_head.weight)
    hook = lm.model.register_forward_hook(keep_logits)
    assert len(fill(store, packer, pack_call(packer, call))) == 2
    hook.remove()


def keep_logits(module: Any, args: Any, output: Any) -> Any:
    return output


def test_models_that_the_caller_has_no_more_are_dropped(tiny_lm) -> None:
    packer, store = Packer(), Store()
    parcel = pack_call(packer, make_call(tiny_lm().prompt("a", max_tokens=2)))
    keys = fill(store, packer, parcel)
    del parcel
    store.forget(packer.live, {})
    assert not any(key in store for key in keys)


def test_edited_models_and_prompts_share_one_model(tiny_lm) -> None:
    from feynkac.models.edits import Add

    lm, packer, store = tiny_lm(), Packer(), Store()
    bent = lm.edited(Add(torch.ones(16), layer=1))
    call = make_call([lm.prompt("a", max_tokens=3), bent.prompt("a", max_tokens=3)], fk.expert(lm.prompt("b")))
    parcel = pack_call(packer, call)
    assert len(fill(store, packer, parcel)) == 3
    twin = store.load(parcel.body)
    piece = cut(call, 1)[0]
    one, other = (run_piece(each, piece, lambda step: None) for each in (call, twin))
    assert [result.texts for result in one.results] == [result.texts for result in other.results]


def test_tokens_come_back_with_the_vocabulary_of_the_caller(tiny_lm) -> None:
    lm, packer, store = tiny_lm(), Packer(), Store()

    @fk.program
    def draw(p, lm):
        return p.sample(lm.context("a").next_token())

    call = make_call(draw(lm))
    parcel = pack_call(packer, call)
    fill(store, packer, parcel)
    outcome = run_piece(store.load(parcel.body), cut(call, 1)[0], lambda step: None)
    back = unpack(store.dump(outcome), parcel.parts)
    assert all(token.vocabulary is lm.vocabulary for result in back.results for token in result.samples)


def test_weights_are_loaded_from_their_folder_where_they_are_the_same(tiny_lm, tmp_path) -> None:
    tiny = tiny_lm()
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    lm, packer = fk.CausalLM.from_pretrained(str(tmp_path)), Packer()
    parcel = pack_call(packer, make_call(lm.prompt("a", max_tokens=2)))
    (part,) = [part for part in parcel.parts.values() if part.source is not None]
    loaded = reload(part.key, part.source)
    assert part.thing is lm.model and torch.equal(loaded.lm_head.weight, lm.model.lm_head.weight)
    lm.model.lm_head.weight.data.mul_(2.0)
    (changed,) = [part for part in pack_call(packer, make_call(lm.prompt("a"))).parts.values() if part.source]
    assert reload(changed.key, changed.source) is None and changed.key != part.key
    (tmp_path / "config.json").unlink()
    assert reload(part.key, part.source) is None


def test_fingerprints_tell_weights_settings_and_types_apart() -> None:
    layer = torch.nn.Linear(3, 3)
    marks = {fingerprint(layer)}
    marks.add(fingerprint(layer.eval()))
    marks.add(fingerprint(layer.double()))
    with torch.no_grad():
        layer.bias[1] += 1.0
    marks.add(fingerprint(layer))
    assert len(marks) == 4 and fingerprint(layer) in marks


class Client:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Critic:
    """A potential with a connection of its own."""

    name = "critic"

    def __init__(self) -> None:
        self.client = Client()

    def level(self, t, state, rows):
        return self.final(state, rows)

    def final(self, state, rows):
        raise NotImplementedError


def test_what_cannot_be_sent_is_named_by_argument_and_by_its_innermost_part(tiny_lm) -> None:
    task, lock = tiny_lm().prompt("a", max_tokens=2), threading.Lock()

    def locked(text: str) -> float:
        with lock:
            return 0.0

    def processor(ids: Any, scores: Any) -> Any:
        return locked("") + scores

    cases = (
        (make_call(task, Critic()), r"the potential 'critic' .*attribute 'client', attribute 'lock'.*__getstate__"),
        (make_call(task, fk.regex("a*"), fk.reward(locked)), r"the potential 'reward\(locked\)' .*variable 'lock'"),
        (make_call([(task,), (task, Critic())]), r"problem 2 of 2: the potential 'critic'"),
        (make_call([task, tiny_lm().prompt("a", logits_processor=[processor])]), r"problem 2 of 2: the model .*'lock'"),
    )
    for call, said in cases:
        with pytest.raises(fk.ArgumentError, match=said):
            pack_call(Packer(), call)
