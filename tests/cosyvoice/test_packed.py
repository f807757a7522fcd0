"""Packed linear layers against the plain ones, and when there must be none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cosyforge.cosyvoice import packed
from cosyforge.cosyvoice.candidates import Candidates
from cosyforge.cosyvoice.config import NANO, SamplingConfig
from cosyforge.cosyvoice.flow import Flow
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.packed import Packable, pack

LM_CONFIG = replace(NANO.lm, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=32, alignment_head=(1, 2))
FLOW_CONFIG = replace(NANO.flow, depth=2)

has_routine = pytest.mark.skipif(
    not packed._is_possible([]), reason="torch has no routine for packed layers on this machine"
)


def stored(network: nn.Module) -> nn.Module:
    """Weights as they come from a file: rounded to bfloat16."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.copy_((0.1 * torch.randn(parameter.shape)).bfloat16())
    return network.eval()


@pytest.fixture
def lm() -> SpeechLM:
    return stored(SpeechLM(LM_CONFIG))


@pytest.fixture
def flow() -> Flow:
    return stored(Flow(FLOW_CONFIG))


def is_packed(network: nn.Module) -> bool:
    found = {module._packed is not None for module in network.modules() if isinstance(module, Packable)}
    assert len(found) == 1
    return found.pop()


@has_routine
@pytest.mark.parametrize("num_positions", [1, 40])
def test_a_packed_lm_gives_the_scores_and_the_attention_of_the_plain_one(lm: SpeechLM, num_positions: int) -> None:
    embeds = torch.randn(3, num_positions, LM_CONFIG.hidden_size)
    wanted = lm.step_looking(embeds, lm.new_cache(3, 40), (1, 2))
    pack(lm)
    assert is_packed(lm)
    given = lm.step_looking(embeds, lm.new_cache(3, 40), (1, 2))
    assert float(wanted[0].std()) > 0.5
    torch.testing.assert_close(given[0], wanted[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(given[1], wanted[1], rtol=0, atol=1e-5)


@has_routine
def test_a_packed_flow_gives_the_mel_of_the_plain_one(flow: Flow) -> None:
    torch.manual_seed(5)
    arguments = torch.arange(60)[None], torch.arange(20)[None], torch.randn(1, 80, 40), torch.randn(1, 192)
    wanted = flow.sample(*arguments, streaming=True)
    pack(flow)
    assert is_packed(flow)
    given = flow.sample(*arguments, streaming=True)
    assert float(wanted.std()) > 0.1
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))


@has_routine
@pytest.mark.parametrize("change", ["train", "load", "move"])
def test_training_loading_and_moving_drop_what_was_packed(lm: SpeechLM, change: str) -> None:
    pack(lm)
    if change == "train":
        lm.train()
    elif change == "load":
        lm.load_state_dict({key: 2 * tensor for key, tensor in lm.state_dict().items()})
    else:
        lm.double()
    assert not is_packed(lm)


@has_routine
def test_gradients_flow_through_the_plain_layers(lm: SpeechLM) -> None:
    pack(lm)
    hidden, _ = lm(torch.randn(1, 5, LM_CONFIG.hidden_size))
    lm.logits(hidden).sum().backward()
    assert all(parameter.grad is not None for layer in lm.decoder.layers for parameter in layer.parameters())


@has_routine
def test_a_large_network_and_one_that_float16_cannot_hold_stay_as_they_are(
    lm: SpeechLM, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        lm.llm_decoder.weight[0, 0] = 1e5
    pack(lm)
    assert not is_packed(lm)
    monkeypatch.setattr(packed, "MOST_WEIGHTS", 1000)
    pack(flow)
    assert not is_packed(flow)


def test_where_torch_has_no_routine_nothing_is_packed(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_pack_matrix", None)
    pack(lm)
    assert not is_packed(lm)


@pytest.mark.parametrize("packs", [False, True])
def test_rows_with_one_past_say_what_each_would_say_alone(lm: SpeechLM, packs: bool) -> None:
    """Longer than the room the rows begin with, and with a choice in between."""
    if packs:
        pack(lm)

    def candidates(num_rows: int) -> Candidates:
        return Candidates(
            lm, [5, 6, 7, 8], [40], [3, 4], num_rows=num_rows, sampling=SamplingConfig(top_k=9, temperature=0.5),
            min_len=90, max_len=90,
        )  # fmt: skip

    def draw(some: Candidates, seeds: list[int], num_steps: int) -> torch.Tensor:
        some.begin(seeds)
        return torch.stack([some.draw() for _ in range(num_steps)])

    together = candidates(3)
    attention = draw(together, [0, 1, 2], 40)
    first = [list(row) for row in together.drawn]
    together.choose(1)
    draw(together, [6, 7, 8], 3)
    later = draw(together, [3, 4, 5], 40)
    for row in range(3):
        alone = candidates(1)
        torch.testing.assert_close(draw(alone, [row], 40)[:, 0], attention[:, row], rtol=0, atol=1e-4)
        assert alone.drawn[0] == first[row]
        if row == 1:
            alone.choose(0)
            torch.testing.assert_close(draw(alone, [4], 40)[:, 0], later[:, 1], rtol=0, atol=1e-4)
            assert alone.drawn[0] == together.drawn[1]
    assert len({tuple(row) for row in first}) == 3
