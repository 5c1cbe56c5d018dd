"""The network and its file; the molecules it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from feynkac import steer
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.discrete.kernels import Unmask
from feynkac.models.discrete.network import CanvasTransformer, NetworkDenoiser, load, open_model, save
from feynkac.potentials import constraint, regex

MOLECULES = Path(__file__).parents[3] / "benchmarks" / "train" / "molecules.safetensors"


def test_a_saved_network_answers_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CanvasTransformer(4, 6, 16, 2, 2)
    network.load_state_dict({name: weight.half().float() for name, weight in network.state_dict().items()})
    save(network, ["", "a", "b", "cc"], tmp_path / "m.safetensors")
    again, vocabulary = load(tmp_path / "m.safetensors")
    tokens = np.random.default_rng(0).integers(0, 5, (3, 6))
    before, after = (NetworkDenoiser(each).log_probs(tokens, 0.0) for each in (network, again))
    np.testing.assert_array_equal(before, after)
    assert before.dtype == np.float64
    np.testing.assert_allclose(np.exp(before).sum(axis=-1), 1.0, atol=1e-12)
    assert vocabulary.eos == (0,) and vocabulary.text([3, 1]) == "cca"


def test_canvases_are_answered_alike_in_any_batch() -> None:
    torch.manual_seed(0)
    network = CanvasTransformer(4, 6, 16, 2, 2)
    tokens = np.random.default_rng(0).integers(0, 5, (5, 6))
    whole, parts = (NetworkDenoiser(network, batch=b).log_probs(tokens, 0.0) for b in (5, 2))
    np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_the_temperature_divides_the_logits() -> None:
    torch.manual_seed(0)
    network, tokens = CanvasTransformer(4, 6, 16, 2, 2), np.random.default_rng(0).integers(0, 5, (5, 6))
    warm, cold = (NetworkDenoiser(network, temperature=each).log_probs(tokens, 0.0) for each in (1.0, 0.5))
    squared = np.exp(2.0 * warm)
    np.testing.assert_allclose(np.exp(cold), squared / squared.sum(axis=-1, keepdims=True), rtol=1e-9)
    with pytest.raises(ArgumentError, match="a number above 0"):
        NetworkDenoiser(network, temperature=0.0)


def test_the_network_that_was_given_stays_as_it_is() -> None:
    torch.manual_seed(0)
    network, tokens = CanvasTransformer(4, 6, 16, 2, 2).train(), np.random.default_rng(0).integers(0, 5, (5, 6))
    denoiser = NetworkDenoiser(network)
    assert network.training and not denoiser.network.training
    before = denoiser.log_probs(tokens, 0.0)
    with torch.no_grad():
        network.head.bias += torch.arange(4.0)  # in place, as an optimiser does: the copy has the same parameters
    after = denoiser.log_probs(tokens, 0.0)
    shifted = np.exp(before + np.arange(4.0))
    np.testing.assert_allclose(np.exp(after), shifted / shifted.sum(axis=-1, keepdims=True), rtol=1e-5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="no safetensors file"):
        load(tmp_path / "x")
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, tmp_path / "y")
    with pytest.raises(ModelError, match=r"was not written by .*save"):
        load(tmp_path / "y")


def test_the_molecule_model_writes_smiles_that_a_constraint_shapes() -> None:
    assert MOLECULES.stat().st_size < 2_000_000
    model = open_model(MOLECULES)
    ring = regex(r"c1ccc.*")
    result = steer(model, ring, particles=8, seed=0)
    assert all(text.startswith("c1ccc") for text in result.posterior())
    assert result.ess > 1.0 and result.complete


def test_molecules_are_scored() -> None:
    pytest.importorskip("rdkit")
    from feynkac.models.discrete.chemistry import canonical, logp, qed, valid

    assert qed("CCO") == pytest.approx(0.4068, abs=1e-4) and logp("CCO") == pytest.approx(-0.0014, abs=1e-4)
    assert not valid("") and not valid("c1cc") and canonical("OCC") == canonical("C(O)C")


def test_a_text_that_rdkit_reads_only_once_is_no_molecule() -> None:
    pytest.importorskip("rdkit")
    from feynkac.models.discrete.chemistry import canonical, qed, valid

    text = "C#CCCs(C(=O)c1ccc2Cl)ccc2c1OCC"
    assert not valid(text) and canonical(text) is None and qed(text) == 0.0


def test_most_molecules_are_valid() -> None:
    # About 78 % are; of 256 independent ones fewer than 60 % would be a miracle (7 standard deviations).
    pytest.importorskip("rdkit")
    from feynkac.models.discrete.chemistry import canonical, valid

    length = load(MOLECULES)[0].shape["length"]
    model = open_model(MOLECULES, Unmask(length, order="confident"), temperature=0.8)
    texts = steer(model, constraint(lambda text: True), particles=256, seed=0).texts
    found = [canonical(text) for text in texts if valid(text)]
    assert len(found) > 0.6 * len(texts)
    assert len(set(found)) > 0.95 * len(found)
