"""What trains in a network, and that a delta added to the base is the network that was trained."""

from __future__ import annotations

import pytest
import torch
from tiny_model import TINY
from torch import Tensor, nn

from cosyforge.cosyvoice.config import NANO, OFFICIAL, ModelConfig
from cosyforge.cosyvoice.flow import Flow, FlowBatch
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.weights import apply_delta
from cosyforge.training.lora import LowRankEmbedding, LowRankLinear, make_trainable, trainable_state


def wander(parameters: list[nn.Parameter]) -> None:
    """Move the weights as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def lm_output(lm: SpeechLM) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    text, speech = (
        torch.randint(0, 200, (2, 9), generator=generator),
        torch.randint(0, 27, (2, 30), generator=generator),
    )
    lengths = torch.tensor([9, 7]), torch.tensor([30, 28]), torch.tensor([2, 2])
    batch = lm.training_batch(text, lengths[0], speech, lengths[1], text[:, :2], lengths[2])
    return lm.loss(batch).logits


def flow_output(flow: Flow) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    batch = FlowBatch(
        token=torch.randint(0, 27, (2, 20), generator=generator),
        token_len=torch.tensor([20, 15]),
        mel=torch.randn(2, 80, 40, generator=generator),
        mel_len=torch.tensor([40, 30]),
        speaker_embedding=torch.randn(2, 192, generator=generator),
    )
    return flow.loss(batch, streaming=False, generator=torch.Generator().manual_seed(1)).pred


def build(name: str) -> nn.Module:
    torch.manual_seed(11)
    network = SpeechLM(TINY.lm) if name == "lm" else Flow(TINY.flow)
    wander(list(network.parameters()))  # layers that start at zero would hide their factors
    return network.eval()


OUTPUT = {"lm": lm_output, "flow": flow_output}


@pytest.mark.parametrize("name", ["lm", "flow"])
@pytest.mark.parametrize("whole_limit", [900, 2**18])
def test_base_plus_delta_is_the_trained_network(name: str, whole_limit: int) -> None:
    trained = build(name)
    trainables = make_trainable(trained, seed=1, rank=2, whole_limit=whole_limit)
    wander(list(trainables.parameters.values()))

    merged = build(name)
    before = OUTPUT[name](merged)
    merged.load_state_dict(apply_delta(merged.state_dict(), trainable_state(trainables)))

    after = OUTPUT[name](trained)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(OUTPUT[name](merged), after, rtol=1e-4, atol=1e-4)


def test_the_smaller_limit_of_these_tests_meets_both_treatments() -> None:
    trainables = make_trainable(build("lm"), seed=1, rank=2, whole_limit=900)

    assert any(key.endswith("k_proj.weight") for key in trainables.whole)
    assert "speech_embedding.weight.lora_B" in trainables.low_rank
    assert any("gate_proj.weight.lora_A" in key for key in trainables.low_rank)


@pytest.mark.parametrize("name", ["lm", "flow"])
def test_training_starts_at_the_base(name: str) -> None:
    network = build(name)
    before = OUTPUT[name](network)

    make_trainable(network, seed=1, rank=2, whole_limit=900)

    torch.testing.assert_close(OUTPUT[name](network), before, rtol=0, atol=0)


def test_only_what_trains_gets_gradients() -> None:
    lm = build("lm")
    assert isinstance(lm, SpeechLM)
    trainables = make_trainable(lm, seed=1, rank=2, whole_limit=900)

    lm_output(lm).square().sum().backward()

    trained = {id(parameter) for parameter in trainables.parameters.values()}
    assert all((parameter.grad is not None) == (id(parameter) in trained) for parameter in lm.parameters())


def test_a_network_of_nano_size_trains_whole_but_for_the_lms_tables_of_codes() -> None:
    lm, flow = on_meta(NANO)

    lm_trainables, flow_trainables = make_trainable(lm, seed=1), make_trainable(flow, seed=1)

    assert {name.rsplit(".", 1)[0] for name in lm_trainables.low_rank} == {
        "llm_decoder.weight",
        "speech_embedding.weight",
    }
    assert lm_trainables.num_frozen == lm.llm_decoder.weight.numel() + lm.speech_embedding.weight.numel()
    assert not flow_trainables.low_rank
    assert flow_trainables.num_frozen == 0
    assert flow_trainables.num_trained == sum(parameter.numel() for parameter in flow.parameters())


def test_a_network_of_the_official_size_trains_a_few_percent() -> None:
    lm, flow = on_meta(OFFICIAL)

    lm_trainables, flow_trainables = make_trainable(lm, seed=1), make_trainable(flow, seed=1)

    for trainables in (lm_trainables, flow_trainables):
        assert 0.01 < trainables.num_trained / (trainables.num_trained + trainables.num_frozen) < 0.05
    lm_keys, flow_keys = lm_trainables.parameters.keys(), flow_trainables.parameters.keys()
    assert "llm_decoder.weight.lora_A" in lm_keys
    assert "llm.model.model.layers.0.mlp.down_proj.weight.lora_B" in lm_keys
    assert "llm.model.model.layers.23.input_layernorm.weight" in lm_keys
    assert not any("embed_tokens" in key for key in lm_keys)
    assert "decoder.estimator.transformer_blocks.21.attn.to_q.weight.lora_A" in flow_keys
    assert "spk_embed_affine_layer.weight" in flow_keys
    assert "decoder.estimator.input_embed.conv_pos_embed.conv1.0.weight" not in flow_keys


def on_meta(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    with torch.device("meta"):
        return SpeechLM(config.lm), Flow(config.flow)


def test_a_tied_table_is_trained_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 4)
            self.head = nn.Linear(4, 20, bias=False)
            self.head.weight = self.table.weight

    trainables = make_trainable(Tied(), seed=1)

    assert list(trainables.parameters) == ["table.weight"]


def test_wrapped_layers_are_still_what_they_were() -> None:
    network = nn.Sequential(nn.Embedding(40, 30), nn.Linear(30, 40))
    weight = network[1].weight

    make_trainable(network, seed=1, rank=2, whole_limit=500)

    assert isinstance(network[0], LowRankEmbedding)
    assert isinstance(network[1], LowRankLinear)
    assert network[1].weight is weight
    assert {"0.weight", "1.weight", "1.bias"} < set(network.state_dict())


def test_a_saved_delta_does_not_move_with_further_training() -> None:
    trainables = make_trainable(nn.Linear(30, 40), seed=1, rank=2, whole_limit=500)
    saved = trainable_state(trainables)
    before = {key: tensor.clone() for key, tensor in saved.items()}

    wander(list(trainables.parameters.values()))

    assert all(torch.equal(saved[key], before[key]) for key in saved)
