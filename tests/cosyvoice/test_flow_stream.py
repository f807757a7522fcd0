"""The flow while tokens arrive: whatever the pieces, forks and blocks, the mel is that of all tokens at once."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from small_flow import CONFIG, SPEAKER, random_flow, random_prompt, random_tokens
from torch import Tensor

from cosyforge.cosyvoice.dit import DiT
from cosyforge.cosyvoice.flow import Flow
from cosyforge.cosyvoice.flow_stream import FlowStream

BLOCK_TOKENS = CONFIG.chunk_frames // CONFIG.frames_per_token


def _in_pieces(stream: FlowStream, token: Tensor, sizes: list[int]) -> Tensor:
    pieces = list(torch.split(token[0], [*sizes, token.shape[1] - sum(sizes)]))
    return torch.cat([stream.push(piece, final=index == len(sizes)) for index, piece in enumerate(pieces)], dim=2)


def _random_sizes(total: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    cuts = sorted(draw.randint(0, total) for _ in range(draw.randint(0, 12)))
    return [end - start for start, end in zip([0, *cuts], cuts, strict=False)]


@pytest.mark.parametrize("num_prompt", [0, 1, 3, 5, 7, 10, 13, 52])
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_of_any_piece_sizes_gives_the_offline_mel(flow: Flow, num_prompt: int, seed: int) -> None:
    token, prompt = random_tokens(61, seed), random_prompt(num_prompt)
    whole = flow.sample(token, *prompt, streaming=True)
    streamed = _in_pieces(FlowStream(flow, *prompt), token, _random_sizes(61, seed))
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk_frames", [2, 6, 100])
def test_a_stream_with_small_or_large_blocks_gives_the_offline_mel(chunk_frames: int) -> None:
    flow = random_flow(dataclasses.replace(CONFIG, chunk_frames=chunk_frames))
    token, prompt = random_tokens(33), random_prompt(6)
    whole = flow.sample(token, *prompt, streaming=True)
    streamed = _in_pieces(FlowStream(flow, *prompt), token, [1] * 32)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)


def test_a_stream_without_guidance_and_with_own_steps_gives_the_offline_mel(flow: Flow) -> None:
    token, prompt = random_tokens(30), random_prompt(6)
    whole = flow.sample(token, *prompt, streaming=True, guidance=0.0, num_steps=7, temperature=0.3)
    stream = FlowStream(flow, *prompt, guidance=0.0, num_steps=7, temperature=0.3)
    torch.testing.assert_close(_in_pieces(stream, token, [11, 9]), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_prompt", [0, 2, 5, 13])
def test_a_block_comes_out_when_exactly_the_tokens_it_waits_for_are_pushed(flow: Flow, num_prompt: int) -> None:
    stream = FlowStream(flow, *random_prompt(num_prompt))
    token = random_tokens(200)[0]
    num_pushed = num_frames = 0
    for _ in range(4):
        missing = stream.tokens_until_next_block
        assert missing > 0
        assert stream.push(token[num_pushed : num_pushed + missing - 1], final=False).shape[2] == 0
        num_pushed += missing
        block = stream.push(token[num_pushed - 1 : num_pushed], final=False)
        assert block.shape[2] > 0
        num_frames += block.shape[2]
        assert num_frames == (num_pushed - CONFIG.pre_lookahead) * CONFIG.frames_per_token
        assert (num_prompt + num_pushed - CONFIG.pre_lookahead) % BLOCK_TOKENS == 0


def test_an_unfinished_stream_gives_the_beginning_of_every_longer_utterance(flow: Flow) -> None:
    prompt = random_prompt(4)
    stream = FlowStream(flow, *prompt)
    beginning = stream.push(random_tokens(33)[0, :20], final=False)
    for num_tokens in (25, 33):
        whole = flow.sample(random_tokens(33)[:, :num_tokens], *prompt, streaming=True)
        torch.testing.assert_close(beginning, whole[:, :, : beginning.shape[2]], rtol=0, atol=1e-5)
    assert beginning.shape[2] > 0


def test_forks_do_not_notice_each_other(flow: Flow) -> None:
    prompt = random_prompt(13)
    voice = FlowStream(flow, *prompt)
    first, second = voice.fork(), voice.fork()
    first_token, second_token = random_tokens(29, seed=20), random_tokens(29, seed=21)
    first_mel, second_mel = [], []
    for start in range(0, 29, 4):  # turn by turn, so that one writing into the other's memory would show
        piece = slice(start, start + 4)
        first_mel.append(first.push(first_token[0, piece], final=start + 4 >= 29))
        second_mel.append(second.push(second_token[0, piece], final=start + 4 >= 29))
    for pieces, token in ((first_mel, first_token), (second_mel, second_token)):
        whole = flow.sample(token, *prompt, streaming=True)
        torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-5)
    # and the stream they came from still stands at the prompt's end
    whole = flow.sample(first_token, *prompt, streaming=True)
    torch.testing.assert_close(voice.push(first_token[0], final=True), whole, rtol=0, atol=1e-5)


def test_a_fork_in_the_middle_goes_on_from_there(flow: Flow) -> None:
    prompt, token = random_prompt(6), random_tokens(40)
    stream = FlowStream(flow, *prompt)
    beginning = stream.push(token[0, :23], final=False)
    branch = stream.fork()
    other = torch.cat((token[:, :23], random_tokens(9, seed=30)), dim=1)
    for end, rest in ((branch.push(other[0, 23:], final=True), other), (stream.push(token[0, 23:], final=True), token)):
        whole = flow.sample(rest, *prompt, streaming=True)
        torch.testing.assert_close(torch.cat((beginning, end), dim=2), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_melody_range_scales_melody_of_what_is_spoken_and_not_of_the_prompt(flow: Flow, factor: float) -> None:
    melodic = random_flow(dataclasses.replace(CONFIG, melody_bin=0))
    token, prompt = random_tokens(31), random_prompt(7)
    stream = FlowStream(melodic, *prompt)
    stream.melody_range = factor
    changed = _in_pieces(stream.fork(), token, [4, 9, 11])

    mu = melodic.mu

    def scaled(tokens: Tensor, **settings: bool) -> Tensor:
        out = mu(tokens, **settings).clone()
        out[:, 0, 14:] *= factor
        return out

    melodic.mu = scaled  # type: ignore[method-assign]
    torch.testing.assert_close(changed, melodic.sample(token, *prompt, streaming=True), rtol=0, atol=1e-5)
    assert not torch.allclose(changed, flow.sample(token, *prompt, streaming=True), atol=1e-3)


def test_melody_range_leaves_a_network_without_a_bin_for_melody_alone(flow: Flow) -> None:
    stream = FlowStream(flow, *random_prompt(3))
    stream.melody_range = 2.0
    expected = flow.sample(random_tokens(12), *random_prompt(3), streaming=True)
    torch.testing.assert_close(_in_pieces(stream, random_tokens(12), []), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="melody_range must be at least 0"):
        stream.melody_range = -1.0


def test_the_prompt_is_worked_through_once_and_shared(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    voice = FlowStream(flow, *random_prompt(53))
    num_frames: list[int] = []
    velocity = DiT.velocity

    def counted(self: DiT, x: Tensor, *rest: object, **options: object) -> Tensor:
        num_frames.append(x.shape[2])
        return velocity(self, x, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(DiT, "velocity", counted)
    stream = voice.fork()
    assert num_frames == []
    stream.push(random_tokens(5)[0], final=False)
    assert num_frames == [CONFIG.chunk_frames] * CONFIG.num_steps


def test_cache_is_what_is_promised_per_frame_and_is_given_back_at_the_end(flow: Flow) -> None:
    stream = FlowStream(flow, *random_prompt(43))
    num_frames = 40 * CONFIG.frames_per_token  # of 43 tokens the last three are context
    expected = stream.bytes_per_frame * num_frames
    assert expected == 2 * 24 * 4 * CONFIG.depth * CONFIG.num_steps * 2 * num_frames
    assert expected <= stream.cache_bytes <= 1.5 * expected
    stream.push(random_tokens(3)[0], final=True)
    assert stream.cache_bytes == 0


def test_a_stream_may_end_without_more_tokens(flow: Flow) -> None:
    token, prompt = random_tokens(17), random_prompt(4)
    stream = FlowStream(flow, *prompt)
    pieces = [stream.push(token[0], final=False), stream.push(token[0, :0], final=True)]
    torch.testing.assert_close(torch.cat(pieces, dim=2), flow.sample(token, *prompt, streaming=True), rtol=0, atol=1e-5)


def test_a_stream_that_has_ended_refuses_more(flow: Flow) -> None:
    stream = FlowStream(flow, None, None, SPEAKER)
    assert stream.push(random_tokens(0)[0], final=True).shape == (1, CONFIG.mel_bins, 0)
    with pytest.raises(ValueError, match="fork a fresh one"):
        stream.push(random_tokens(4)[0], final=False)


def test_the_reference_switch_makes_only_the_last_piece_with_the_full_mask(flow: Flow) -> None:
    prompt, token = random_prompt(6), random_tokens(40)
    stream = FlowStream(flow, *prompt, reference_last_chunk_full_mask=True)
    beginning = stream.push(token[0, :30], final=False)
    end = stream.push(token[0, 30:], final=True)
    num_first = beginning.shape[2]
    masked, full = flow.sample(token, *prompt, streaming=True), flow.sample(token, *prompt)
    torch.testing.assert_close(beginning, masked[:, :, :num_first], rtol=0, atol=1e-5)
    torch.testing.assert_close(end, full[:, :, num_first:], rtol=0, atol=1e-5)
