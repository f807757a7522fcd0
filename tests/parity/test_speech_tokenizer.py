"""The speech tokenizer against the reference: hidden vectors, and codes wherever rounding is not a matter of luck."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cosyforge.cosyvoice.config import SpeechTokenizerConfig
from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer

from .conftest import LoadJson, LoadTensors

BORDER = 0.5493061443340548
"""Where tanh crosses one half, so that rounding changes its mind."""


@pytest.fixture(scope="module")
def network(load_json: LoadJson, load_tensors: LoadTensors) -> SpeechTokenizer:
    config = load_json("speech_tokenizer")["config"]
    assert config["state"] == config["heads"] * config["head_dim"]
    state = load_tensors("speech_tokenizer.state")
    network = SpeechTokenizer(
        SpeechTokenizerConfig(
            n_mels=config["n_mels"],
            hidden_size=config["state"],
            num_heads=config["heads"],
            num_layers=config["layers"],
            fsmn_kernel=config["fsmn_kernel"],
            fsq_dim=state["quantizer._codebook.project_down.bias"].shape[0],
        )
    )
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture(scope="module")
def io(load_tensors: LoadTensors) -> dict[str, Tensor]:
    return load_tensors("speech_tokenizer.io")


@torch.no_grad()
def test_hidden_vectors_match(network: SpeechTokenizer, io: dict[str, Tensor]) -> None:
    hidden, hidden_len = network.encode_hidden(io["mel"], io["mel_len"])
    assert hidden_len.tolist() == io["hidden_len"].tolist()
    for row, length in enumerate(hidden_len.tolist()):
        torch.testing.assert_close(hidden[row, :length], io["hidden"][row, :length], atol=1e-5, rtol=0)


@torch.no_grad()
def test_codes_match_away_from_borders(network: SpeechTokenizer, io: dict[str, Tensor]) -> None:
    code, code_len = network(io["mel"], io["mel_len"])
    assert code_len.tolist() == io["code_len"].tolist()
    certain = ((io["before_tanh"].abs() - BORDER).abs() > 1e-3).all(dim=-1)
    compared = 0
    for row, length in enumerate(code_len.tolist()):
        keep = certain[row, :length]
        assert torch.equal(code[row, :length][keep], io["code"][row, :length][keep].long())
        compared += int(keep.sum())
    assert compared > 0.9 * int(code_len.sum())
