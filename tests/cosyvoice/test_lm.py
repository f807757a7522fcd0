"""The speech LM with small random weights: layouts by hand, fast paths against slow ones, the rules of decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cosyforge.cosyvoice.config import NANO, OFFICIAL, LMConfig, SamplingConfig
from cosyforge.cosyvoice.lm import (
    IGNORE,
    PADDING_VALUE,
    LMBatch,
    SpeechLM,
    generate,
    generate_bistream,
    smoothed_cross_entropy,
)

CONFIG = LMConfig(
    text_vocab_size=50,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    speech_token_size=20,
    num_special_rows=10,
    mix_ratio=(2, 3),
)
GREEDY = SamplingConfig(top_k=1)
END_OF_PROMPT = 49


@pytest.fixture
def lm() -> SpeechLM:
    """Weights large enough that attention is not flat and every position matters."""
    torch.manual_seed(0)
    lm = SpeechLM(CONFIG)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return lm


def random_batch(
    lm: SpeechLM, text_len: list[int], speech_len: list[int], instruct_len: list[int], bistream: list[bool] | None
) -> LMBatch:
    torch.manual_seed(1)
    arguments: list[Tensor] = []
    for lengths, size in ((text_len, 49), (speech_len, lm.config.speech_token_size), (instruct_len, 49)):
        arguments += [torch.randint(size, (len(lengths), max(lengths))), torch.tensor(lengths, dtype=torch.int32)]
    return lm.training_batch(*arguments, None if bistream is None else torch.tensor(bistream))


class TestNetwork:
    def test_official_size_has_the_released_keys_and_parameters(self) -> None:
        with torch.device("meta"):
            state = SpeechLM(OFFICIAL.lm).state_dict()
        layer = "llm.model.model.layers.23"
        shapes = {
            "llm.model.model.embed_tokens.weight": (151936, 896),
            f"{layer}.self_attn.q_proj.weight": (896, 896),
            f"{layer}.self_attn.q_proj.bias": (896,),
            f"{layer}.self_attn.k_proj.weight": (128, 896),
            f"{layer}.self_attn.k_proj.bias": (128,),
            f"{layer}.self_attn.v_proj.weight": (128, 896),
            f"{layer}.self_attn.v_proj.bias": (128,),
            f"{layer}.self_attn.o_proj.weight": (896, 896),
            f"{layer}.mlp.gate_proj.weight": (4864, 896),
            f"{layer}.mlp.up_proj.weight": (4864, 896),
            f"{layer}.mlp.down_proj.weight": (896, 4864),
            f"{layer}.input_layernorm.weight": (896,),
            f"{layer}.post_attention_layernorm.weight": (896,),
            "llm.model.model.norm.weight": (896,),
            "llm_decoder.weight": (6761, 896),
            "speech_embedding.weight": (6761, 896),
        }
        assert {key: tuple(state[key].shape) for key in shapes} == shapes
        assert len(state) == 24 * 12 + 4
        qwen2 = sum(value.numel() for key, value in state.items() if key.startswith("llm.model."))
        assert qwen2 == 494_032_768

    def test_no_position_sees_what_comes_after_it_or_padding(self, lm: SpeechLM) -> None:
        embeds = torch.randn(2, 9, CONFIG.hidden_size)
        changed = embeds.clone()
        changed[:, 6:] = 7.0
        before, after = lm(embeds)[0], lm(changed)[0]
        assert torch.equal(before[:, :6], after[:, :6])
        assert not torch.allclose(before[:, 6], after[:, 6])

    def test_a_padded_batch_gives_each_sample_what_it_gets_alone(self, lm: SpeechLM) -> None:
        lengths = [9, 4, 7]
        embeds = torch.full((3, 9, CONFIG.hidden_size), PADDING_VALUE)
        for row, length in enumerate(lengths):
            embeds[row, :length] = torch.randn(length, CONFIG.hidden_size)
        hidden, attention = lm(embeds, torch.tensor(lengths), attention_head=(1, 2))
        for row, length in enumerate(lengths):
            alone, attention_alone = lm(embeds[row : row + 1, :length], attention_head=(1, 2))
            torch.testing.assert_close(hidden[row, :length], alone[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(attention[row, :length, :length], attention_alone[0], atol=1e-5, rtol=0)
            assert not hidden[row, length:].any()
            assert not attention[row, length:].any()

    @pytest.mark.parametrize("layer_index", [0, 1])
    def test_the_four_heads_attention_rebuilds_what_the_layer_put_out(self, lm: SpeechLM, layer_index: int) -> None:
        layer: Any = lm.decoder.layers[layer_index]
        seen: dict[str, Tensor] = {}
        layer.self_attn.v_proj.register_forward_hook(lambda _m, _i, out: seen.update(value=out))
        layer.self_attn.o_proj.register_forward_hook(lambda _m, i, _o: seen.update(mixed=i[0]))
        embeds = torch.randn(2, 7, CONFIG.hidden_size)
        heads = []
        for head in range(CONFIG.num_heads):
            _, attention = lm(embeds, attention_head=(layer_index, head))
            value = seen["value"].unflatten(-1, (CONFIG.num_kv_heads, CONFIG.head_dim))
            heads.append(attention @ value[:, :, head // 2])
        torch.testing.assert_close(torch.cat(heads, dim=-1), seen["mixed"], atol=1e-5, rtol=1e-5)

    def test_attention_of_a_head_is_causal_sums_to_one_and_can_be_trained(self, lm: SpeechLM) -> None:
        embeds = torch.randn(1, 6, CONFIG.hidden_size)
        _, attention = lm(embeds, attention_head=(-1, -1))
        assert torch.equal(attention, lm(embeds, attention_head=(1, 3))[1])
        torch.testing.assert_close(attention.sum(-1), torch.ones(1, 6))
        assert not attention.triu(1).any()
        attention[0, 5, 2].log().backward()
        gradient = lm.decoder.layers[1].self_attn.q_proj.weight.grad  # type: ignore[union-attr]
        assert gradient[3 * CONFIG.head_dim :].abs().sum() > 0  # type: ignore[index]
        assert gradient[: 3 * CONFIG.head_dim].abs().sum() == 0  # type: ignore[index]

    def test_a_head_that_does_not_exist_is_refused(self, lm: SpeechLM) -> None:
        with pytest.raises(ValueError, match="2 layers, 4 heads"):
            lm(torch.zeros(1, 3, CONFIG.hidden_size), attention_head=(0, 4))

    @torch.no_grad()
    def test_runs_in_bfloat16(self, lm: SpeechLM) -> None:
        embeds = torch.randn(1, 12, CONFIG.hidden_size)
        exact = lm.logits(lm(embeds)[0]).log_softmax(-1)
        half = lm.bfloat16()
        scores = half.step(embeds.bfloat16(), half.new_cache(1, 12))
        assert scores.dtype == torch.float32
        assert float((scores - exact[:, -1]).abs().max()) < 1.0  # the scores of this model span about 20


class TestCache:
    @pytest.mark.parametrize("chunks", [[12], [1] * 12, [5, 1, 1, 4, 1], [3, 9]])
    @pytest.mark.parametrize("capacity", [1, 12])
    def test_cached_steps_equal_the_uncached_sequence(self, lm: SpeechLM, chunks: list[int], capacity: int) -> None:
        embeds = torch.randn(3, 12, CONFIG.hidden_size)
        expected = lm.logits(lm(embeds)[0]).log_softmax(dim=-1)
        cache = lm.new_cache(3, capacity)
        position = 0
        for size in chunks:
            scores = lm.step(embeds[:, position : position + size], cache)
            position += size
            torch.testing.assert_close(scores, expected[:, position - 1], atol=1e-4, rtol=0)
            assert cache.length == position <= cache.capacity

    def test_capacity_doubles_and_is_kept_when_large_enough(self, lm: SpeechLM) -> None:
        cache = lm.new_cache(1, 4)
        capacities = []
        for _ in range(9):
            lm.step(torch.randn(1, 1, CONFIG.hidden_size), cache)
            capacities.append(cache.capacity)
        assert capacities == [4, 4, 4, 4, 8, 8, 8, 8, 16]

    def test_positions_beyond_the_first_rotary_table_are_right(self, lm: SpeechLM) -> None:
        embeds = torch.randn(1, 300, CONFIG.hidden_size)
        cache = lm.new_cache(1, 300)
        lm.step(embeds[:, :250], cache)
        scores = lm.step(embeds[:, 250:], cache)
        expected = SpeechLM(CONFIG)
        expected.load_state_dict(lm.state_dict())
        torch.testing.assert_close(
            scores, expected.logits(expected(embeds)[0][:, -1]).log_softmax(-1), atol=1e-4, rtol=0
        )

    @pytest.mark.parametrize("shape", [(2, 3), (1, 0)])
    def test_a_step_that_does_not_fit_the_cache_is_refused(self, lm: SpeechLM, shape: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="embeds"):
            lm.step(torch.zeros(*shape, CONFIG.hidden_size), lm.new_cache(1, 8))


SOS, EOS, TASK, FILL = CONFIG.sos, CONFIG.eos, CONFIG.task_id, CONFIG.fill
NO = IGNORE


class TestTrainingBatch:
    def test_unistream_by_hand(self, lm: SpeechLM) -> None:
        batch = lm.training_batch(
            torch.tensor([[5, 6, 7]]), torch.tensor([3]),
            torch.tensor([[11, 12]]), torch.tensor([2]),
            torch.tensor([[40, 41]]), torch.tensor([2]),
        )  # fmt: skip
        #                                         sos instruct text     task  speech
        assert batch.text_index.tolist() == [[NO, NO, NO, 0, 1, 2, NO, NO, NO]]
        assert batch.speech_index.tolist() == [[NO, NO, NO, NO, NO, NO, NO, 0, 1]]
        assert batch.target.tolist() == [[NO, NO, NO, NO, NO, NO, 11, 12, EOS]]
        assert batch.lengths.tolist() == [9]
        text, speech = lm.embed_text, lm.embed_speech
        expected = torch.cat(
            [
                speech(torch.tensor([SOS])),
                text(torch.tensor([40, 41, 5, 6, 7])),
                speech(torch.tensor([TASK, 11, 12])),
            ]
        )
        assert torch.equal(batch.embeds[0], expected)

    def test_bistream_by_hand_with_turns_of_two_and_three(self, lm: SpeechLM) -> None:
        batch = lm.training_batch(
            torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([5]),
            torch.tensor([[10, 11, 12, 13, 14, 15, 16, 17]]), torch.tensor([8]),
            torch.tensor([[40, 41]]), torch.tensor([2]),
            torch.tensor([True]),
        )  # fmt: skip
        speech = [SOS, None, None, None, None, 10, 11, 12, None, None, 13, 14, 15, None, TASK, 16, 17]
        text = [None, 40, 41, 5, 6, None, None, None, 7, 8, None, None, None, 9, None, None, None]
        target = [NO, NO, NO, NO, 10, 11, 12, FILL, NO, 13, 14, 15, FILL, NO, 16, 17, EOS]
        assert batch.target.tolist() == [target]
        assert batch.lengths.tolist() == [17]
        for place, (text_id, speech_id) in enumerate(zip(text, speech, strict=True)):
            row = lm.embed_speech(torch.tensor(speech_id)) if text_id is None else lm.embed_text(torch.tensor(text_id))
            assert torch.equal(batch.embeds[0, place], row)
        assert batch.text_index.tolist() == [[NO, NO, NO, 0, 1, NO, NO, NO, 2, 3, NO, NO, NO, 4, NO, NO, NO]]
        assert batch.speech_index.tolist() == [[NO, NO, NO, NO, NO, 0, 1, 2, NO, NO, 3, 4, 5, NO, NO, 6, 7]]

    def test_bistream_with_full_last_group_leaves_an_empty_rest(self, lm: SpeechLM) -> None:
        batch = random_batch(lm, text_len=[2], speech_len=[4], instruct_len=[1], bistream=[True])
        assert batch.text_index.tolist() == [[NO, NO, 0, 1, NO, NO, NO, NO, NO]]
        assert batch.speech_index.tolist() == [[NO, NO, NO, NO, 0, 1, 2, NO, 3]]
        assert batch.target[0, 6] == FILL
        assert batch.target[0, 8] == EOS

    def test_each_sample_of_a_mixed_batch_is_laid_out_as_alone(self, lm: SpeechLM) -> None:
        text_len, speech_len, instruct_len = [5, 3, 7, 1], [12, 6, 11, 9], [2, 0, 3, 1]
        bistream = [True, False, True, False]
        batch = random_batch(lm, text_len, speech_len, instruct_len, bistream)
        torch.manual_seed(1)
        text, speech, instruct = torch.randint(49, (4, 7)), torch.randint(20, (4, 12)), torch.randint(49, (4, 3))
        for row in range(4):
            alone = lm.training_batch(
                text[row : row + 1, : text_len[row]], torch.tensor([text_len[row]]),
                speech[row : row + 1, : speech_len[row]], torch.tensor([speech_len[row]]),
                instruct[row : row + 1, : instruct_len[row]], torch.tensor([instruct_len[row]]),
                torch.tensor([bistream[row]]),
            )  # fmt: skip
            length = int(alone.lengths)
            assert batch.lengths[row] == length
            for name, padding in (
                ("embeds", PADDING_VALUE), ("target", IGNORE), ("text_index", -1), ("speech_index", -1)
            ):  # fmt: skip
                assert torch.equal(getattr(batch, name)[row, :length], getattr(alone, name)[0])
                assert (getattr(batch, name)[row, length:] == padding).all()

    def test_bistream_without_speech_enough_is_refused_by_sample(self, lm: SpeechLM) -> None:
        with pytest.raises(ValueError, match="sample 1 of the batch: 5 text tokens need at least 6 speech tokens"):
            random_batch(lm, [2, 5], [9, 5], [1, 1], bistream=[True, True])

    def test_bistream_is_drawn_only_above_the_ratio(self, lm: SpeechLM) -> None:
        """The ratio is 3 : 2 here, and must be exceeded."""
        text_len, speech_len = torch.tensor([2, 2, 4, 4]), torch.tensor([3, 4, 6, 7])
        assert lm.draw_bistream(text_len, speech_len, probability=1.0).tolist() == [False, True, False, True]
        assert not lm.draw_bistream(text_len, speech_len, probability=0.0).any()

    def test_bistream_is_drawn_for_half_and_repeats_with_its_generator(self, lm: SpeechLM) -> None:
        text_len, speech_len = torch.full((2000,), 2), torch.full((2000,), 9)
        first, second = (
            lm.draw_bistream(text_len, speech_len, generator=torch.Generator().manual_seed(4)) for _ in range(2)
        )
        assert torch.equal(first, second)
        assert 900 < int(first.sum()) < 1100


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_loss_and_accuracy_are_means_over_predicted_positions(self, lm: SpeechLM, smoothing: float) -> None:
        batch = random_batch(lm, [5, 2], [8, 4], [2, 1], [True, False])
        with torch.no_grad():
            result = lm.loss(batch, smoothing)
        logits = lm.logits(lm(batch.embeds)[0]).detach()
        total, count, right = 0.0, 0, 0
        for row, place in (batch.target != IGNORE).nonzero().tolist():
            target = int(batch.target[row, place])
            wanted = torch.full((CONFIG.num_rows,), smoothing / (CONFIG.num_rows - 1))
            wanted[target] = 1 - smoothing
            total += float(F.kl_div(logits[row, place].log_softmax(0), wanted, reduction="sum"))
            right += int(logits[row, place].argmax() == target)
            count += 1
        assert float(result.loss) == pytest.approx(total / count, abs=1e-5)
        assert float(result.accuracy) == pytest.approx(right / count)
        assert result.logits.shape == (count, CONFIG.num_rows)

    def test_perfect_smoothed_scores_cost_nothing(self) -> None:
        wanted = torch.full((1, 5), 0.05)
        wanted[0, 3] = 0.8
        assert float(smoothed_cross_entropy(wanted.log(), torch.tensor([3]), 0.2)) == pytest.approx(0.0, abs=1e-6)

    def test_loss_hands_out_the_attention_of_a_head(self, lm: SpeechLM) -> None:
        batch = random_batch(lm, [3], [4], [1], None)
        attention = lm.loss(batch, attention_head=(0, 1)).attention
        assert attention is not None
        assert torch.equal(attention, lm(batch.embeds, batch.lengths, attention_head=(0, 1))[1])
        assert lm.loss(batch).attention is None

    def test_every_parameter_is_trained(self, lm: SpeechLM) -> None:
        lm.loss(random_batch(lm, [5, 2], [8, 4], [2, 1], [True, False])).loss.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in lm.parameters())


def tokens(*ids: int) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64)


def speak(lm: SpeechLM, **options: Any) -> Iterator[int]:
    arguments: dict[str, Any] = {"sampling": GREEDY, "min_len": 0, "max_len": 30} | options
    return generate(lm, tokens(5, 6, 7), tokens(40, END_OF_PROMPT, 8), tokens(3, 4), **arguments)


def always(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch, row: int, second: int = 6) -> None:
    """Make the LM want one row above all, and a speech token next."""

    def step(embeds: Tensor, cache: object) -> Tensor:
        scores = torch.zeros(1, CONFIG.num_rows)
        scores[0, row], scores[0, second] = 20.0, 10.0
        return scores.log_softmax(-1)

    monkeypatch.setattr(lm, "step", step)


class TestGenerate:
    def test_greedy_tokens_are_those_of_the_uncached_forward(self, lm: SpeechLM) -> None:
        spoken = list(speak(lm, min_len=10, max_len=10))
        batch = lm.training_batch(
            tokens(8, 5, 6, 7)[None], tokens(4), tokens(3, 4, *spoken)[None], tokens(12),
            tokens(40, END_OF_PROMPT)[None], tokens(2),
        )  # fmt: skip
        scores = lm.logits(lm(batch.embeds)[0])[0, -11:-1, : CONFIG.speech_token_size]
        assert scores.argmax(-1).tolist() == spoken
        assert len(set(spoken)) > 1

    @pytest.mark.parametrize("stop", [CONFIG.speech_token_size, EOS, CONFIG.num_rows - 1])
    def test_minimum_length_holds_back_every_stop_id(
        self, lm: SpeechLM, monkeypatch: pytest.MonkeyPatch, stop: int
    ) -> None:
        always(lm, monkeypatch, stop)
        assert list(speak(lm, min_len=5)) == [6] * 5
        assert list(speak(lm)) == []

    def test_minimum_length_fault_of_the_reference_lets_the_end_through(
        self, lm: SpeechLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        always(lm, monkeypatch, EOS)
        assert list(speak(lm, min_len=5, reference_min_len_fault=True)) == []

    def test_at_most_max_len_tokens(self, lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
        always(lm, monkeypatch, 7)
        assert list(speak(lm, max_len=9)) == [7] * 9
        assert list(speak(lm, max_len=0)) == []

    def test_random_tokens_are_speech_only_and_repeat_with_their_seed(self, lm: SpeechLM) -> None:
        def once(seed: int) -> list[int]:
            sampling = SamplingConfig(temperature=3.0)
            return list(speak(lm, sampling=sampling, min_len=20, generator=torch.Generator().manual_seed(seed)))

        assert once(1) == once(1) != once(2)
        assert len(once(1)) >= 20
        assert all(0 <= token < CONFIG.speech_token_size for token in once(1))

    def test_nothing_is_computed_before_it_is_asked_for(self, lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []
        step = lm.step
        monkeypatch.setattr(lm, "step", lambda embeds, cache: calls.append(embeds.shape[1]) or step(embeds, cache))
        spoken = speak(lm, min_len=4)
        assert calls == []
        next(spoken)
        next(spoken)
        assert calls == [1 + 3 + 3 + 1 + 2, 1]

    def test_training_goes_on_while_and_after_something_is_spoken(self) -> None:
        """Decoding runs without gradients, and must not leave that behind in the caller or in a table."""
        lm = SpeechLM(replace(CONFIG, head_dim=10))
        spoken = speak(lm, min_len=3)
        next(spoken)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        lm.loss(random_batch(lm, [3], [4], [1], None)).loss.backward()
        next(spoken)

    def test_a_batch_of_tokens_is_refused(self, lm: SpeechLM) -> None:
        with pytest.raises(ValueError, match="one dimension"):
            list(generate(lm, tokens(1)[None], tokens(), tokens(), sampling=GREEDY, min_len=0, max_len=1))


def speak_pieces(
    lm: SpeechLM, pieces: Any, prompt_text: Tensor, prompt_speech: Tensor, **options: Any
) -> Iterator[int]:
    arguments: dict[str, Any] = {"endofprompt_id": END_OF_PROMPT, "sampling": GREEDY} | options
    return generate_bistream(lm, pieces, prompt_text, prompt_speech, **arguments)


class TestGenerateBistream:
    @pytest.mark.parametrize("num_prompt", [0, 1, 3, 4, 6, 11])
    @pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1, 1, 1], [7], [2, 5], [4, 0, 4], [1]])
    def test_what_is_fed_is_the_layout_of_training(
        self, lm: SpeechLM, monkeypatch: pytest.MonkeyPatch, num_prompt: int, sizes: list[int]
    ) -> None:
        fed: list[Tensor] = []
        step = lm.step
        monkeypatch.setattr(lm, "step", lambda embeds, cache: fed.append(embeds) or step(embeds, cache))
        text, prompt_speech = torch.arange(10, 10 + sum(sizes)), torch.arange(num_prompt) + 2
        transcript = tokens(30, 31, 32)
        prompt_text = torch.cat((tokens(40, END_OF_PROMPT), transcript))
        options = {"min_ratio": 6.0, "max_ratio": 6.0}
        spoken = list(speak_pieces(lm, text.split(sizes), prompt_text, prompt_speech, **options))
        assert len(spoken) == 6 * sum(sizes)

        speech = torch.cat((prompt_speech, tokens(*spoken)))
        all_text = torch.cat((transcript, text))
        batch = lm.training_batch(
            all_text[None], tokens(len(all_text)), speech[None], tokens(len(speech)),
            tokens(40, END_OF_PROMPT)[None], tokens(2), tokens(1).bool(),
        )  # fmt: skip
        # the last token is never fed, nothing follows it
        torch.testing.assert_close(torch.cat(fed, dim=1), batch.embeds[:, :-1])

    def test_speech_starts_with_the_first_full_turn_of_text(self, lm: SpeechLM) -> None:
        taken: list[int] = []

        def pieces() -> Iterator[Tensor]:
            for token in range(10, 15):
                taken.append(token)
                yield tokens(token)

        spoken = speak_pieces(lm, pieces(), tokens(40, END_OF_PROMPT), tokens(), min_ratio=3.0)
        assert taken == []
        seen = []
        for _ in range(8):
            next(spoken)
            seen.append(len(taken))
        assert seen == [2, 2, 2, 4, 4, 4, 5, 5]

    def test_stop_ids_end_it_only_after_the_text_and_the_minimum(
        self, lm: SpeechLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        always(lm, monkeypatch, EOS)
        text = [tokens(10, 11, 12, 13, 14)]
        assert len(list(speak_pieces(lm, text, tokens(END_OF_PROMPT), tokens(), min_ratio=0.0))) == 6
        assert len(list(speak_pieces(lm, text, tokens(END_OF_PROMPT), tokens(), min_ratio=2.0))) == 10

    def test_length_is_bounded_by_the_text(self, lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
        always(lm, monkeypatch, 7)
        assert len(list(speak_pieces(lm, [tokens(10, 11, 12)], tokens(END_OF_PROMPT), tokens(), max_ratio=4.0))) == 12
        assert list(speak_pieces(lm, [], tokens(END_OF_PROMPT), tokens())) == []

    def test_prompt_without_its_end_is_refused(self, lm: SpeechLM) -> None:
        with pytest.raises(ValueError, match="end-of-prompt token 49"):
            list(speak_pieces(lm, [tokens(1)], tokens(40), tokens()))


def test_training_teaches_both_layouts_what_decoding_then_says() -> None:
    """The whole circle: learn one utterance by heart in both layouts, then speak it whole and in pieces."""
    torch.manual_seed(2)
    lm = SpeechLM(CONFIG)
    text, instruct = torch.randint(40, (2, 5)), tokens(44, END_OF_PROMPT).expand(2, -1)
    speech = torch.randint(CONFIG.speech_token_size, (2, 11))
    batch_of = (text, tokens(5, 5), speech, tokens(11, 11), instruct, tokens(2, 2))
    optimizer = torch.optim.Adam(lm.parameters(), lr=1e-2)
    for step in range(120):
        batch = lm.training_batch(*batch_of, torch.full((2,), step % 2 == 1))
        loss = lm.loss(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    for row in range(2):
        expected = speech[row].tolist()
        whole = generate(lm, text[row], instruct[row], tokens(), sampling=GREEDY, min_len=0, max_len=40)
        assert list(whole) == expected
        pieces = speak_pieces(lm, text[row].split(2), instruct[row], tokens(), min_ratio=0.0)
        assert list(pieces) == expected
        continued = generate(lm, text[row], instruct[row], speech[row, :4], sampling=GREEDY, min_len=0, max_len=40)
        assert list(continued) == expected[4:]


def test_nano_size_fits_its_budget() -> None:
    assert sum(parameter.numel() for parameter in SpeechLM(NANO.lm).parameters()) < 5_500_000
