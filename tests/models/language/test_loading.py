"""What is told when a model cannot be put where it is wanted."""

from __future__ import annotations

import pytest
import torch

from feynkac.base.errors import ModelError
from feynkac.models.language.lm import CausalLM
from feynkac.models.language.loading import move


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_a_cuda_device_where_there_is_none(device) -> None:
    with pytest.raises(ModelError, match=r"cannot move the model to 'cuda(:1)?': .*; torch finds cpu here"):
        move(torch.nn.Linear(2, 2), device)


def test_a_device_without_room(monkeypatch) -> None:
    model = torch.nn.Linear(2, 2)

    def run_out(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(model, "to", run_out)
    with pytest.raises(ModelError, match=r"to 'cuda:0': CUDA out of memory. Tried .*; torch finds cpu") as caught:
        move(model, "cuda:0")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told_before_weights_are_read() -> None:
    with pytest.raises(ModelError, match=r"to 'cuda': .*leave device out, or install a torch that is built for it"):
        CausalLM.from_pretrained("no/such-model", device="cuda")


@pytest.mark.parametrize("device", [1.5, ["cuda"], True])
def test_a_device_that_is_no_name_is_refused(device) -> None:
    with pytest.raises(ModelError, match=r"device is .*; give a name such as 'cuda'"):
        move(torch.nn.Linear(2, 2), device)
