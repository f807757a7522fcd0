"""What the speech tokenizer is asked: the sounds, and the same codes whoever says them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from prepared_clips import three_sounds
from tiny_model import TINY

from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.training.pretrain.corpus import PreparedClip
from cosyforge.training.pretrain.speech_tokenizer_stage import SpeechTokenizerLoss, TokenReader, warp_whisper


def clips(count: int) -> list[PreparedClip]:
    """With the mel of the tokenizer's own kind: 128 bins, 100 Hz, about zero to one."""
    made = [three_sounds(number) for number in range(count)]
    mels = [F.interpolate(clip.mel.float()[None, None], (2 * len(clip.mel), 128))[0, 0] / 8 + 1 for clip in made]
    return [replace(clip, whisper=mel) for clip, mel in zip(made, mels, strict=True)]


@pytest.fixture
def judge() -> SpeechTokenizerLoss:
    torch.manual_seed(0)
    tokenizer = SpeechTokenizer(TINY.speech_tokenizer)
    return SpeechTokenizerLoss(tokenizer, TokenReader(3, 1, width=32, depth=1), clips(8), frames_per_batch=300)


def test_it_learns_the_sounds_and_to_hear_them_alike_from_two_persons(judge: SpeechTokenizerLoss) -> None:
    optimizer = torch.optim.Adam([*judge.tokenizer.parameters(), *judge.reader.parameters()], lr=3e-3)
    rows = []
    for step in range(80):
        optimizer.zero_grad()
        loss, figures = judge(step, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        rows.append({name: float(value.detach()) for name, value in figures.items()})

    middle, last = (
        {name: sum(row[name] for row in part) / 10 for name in rows[0]} for part in (rows[20:30], rows[-10:])
    )
    assert last["correct"] > 0.9, rows[-1]
    assert last["disagreement"] < 0.7 * middle["disagreement"], (middle, last)


@torch.no_grad()
def test_two_hearings_that_are_the_same_disagree_about_nothing(judge: SpeechTokenizerLoss) -> None:
    pair = clips(2)
    mels = [clip.whisper for clip in pair]

    _, same = judge.score(pair * 2, mels * 2)
    # what stands behind the end of the shorter clip is not heard
    shorter = [mels[0], mels[1][:40]]
    _, cut = judge.score([pair[0], pair[1]] * 2, shorter * 2)
    _, other = judge.score(pair * 2, mels + [warp_whisper(mel, torch.Generator().manual_seed(3)) for mel in mels])

    assert float(same["disagreement"]) == float(cut["disagreement"]) == 0.0
    assert float(other["disagreement"]) > 0.001


@torch.no_grad()
def test_a_clip_that_is_heard_once_is_compared_with_nothing(judge: SpeechTokenizerLoss) -> None:
    once = SpeechTokenizerLoss(judge.tokenizer, judge.reader, judge.clips, 300, heard_twice=False)
    _, figures = once(0, torch.Generator().manual_seed(0))
    assert float(figures["disagreement"]) == 0.0
    assert judge.sampler.budget == once.sampler.budget // 2


def test_a_disguise_keeps_the_length_and_hides_no_more_than_the_soft(judge: SpeechTokenizerLoss) -> None:
    mel = judge.clips[0].whisper
    disguised = [warp_whisper(mel, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {tuple(other.shape) for other in disguised} == {tuple(mel.shape)}
    # the loudest band of every sound stays among its loud ones, some bins away
    for other in disguised:
        moved = (other.argmax(1) - mel.argmax(1)).abs().float()
        assert moved.median() < 24, moved
