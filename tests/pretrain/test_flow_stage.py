"""The flow's batches, of single clips and of pairs, and that their loss teaches it to draw."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from prepared_clips import NUM_SOUNDS, three_sounds
from tiny_model import TINY

from cosyforge.cosyvoice.flow import Flow
from cosyforge.training.pretrain.flow_stage import FlowLossFunction
from cosyforge.training.pretrain.mel_reader_stage import MelReader

NUM_CLIPS = 8


def make_judge(*, coloured: bool) -> FlowLossFunction:
    """Eight clips of two speakers in turn; a code of a clip is the sound of its two frames."""
    torch.manual_seed(0)
    clips = [three_sounds(number, speaker=f"speaker {number % 2}") for number in range(NUM_CLIPS)]
    codes = [clip.label[::2].long() for clip in clips]
    vectors = F.normalize(torch.randn(NUM_CLIPS, TINY.flow.speaker_dim))
    reader = MelReader(width=32, depth=2)
    return FlowLossFunction(Flow(TINY.flow), clips, codes, vectors, reader, frames_per_batch=150, coloured=coloured)


@pytest.fixture
def judge() -> FlowLossFunction:
    return make_judge(coloured=False)


def test_its_loss_teaches_to_draw(judge: FlowLossFunction) -> None:
    optimizer = torch.optim.Adam(judge.flow.parameters(), lr=3e-3)
    rows: list[dict[str, float]] = []

    for step in range(60):
        optimizer.zero_grad()
        loss, figures = judge(step, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        rows.append({name: float(value.detach()) for name, value in {"loss": loss, **figures}.items()})

    first, last = ({name: sum(row[name] for row in part) / 10 for name in rows[0]} for part in (rows[:10], rows[-10:]))
    fallen = {name for name in first if last[name] < 0.7 * first[name]}
    assert fallen >= {"loss", "prior", "melody", "voicing", "likeness"}, (first, last)
    assert all(parameter.grad is None for parameter in judge.reader.parameters())


def test_the_first_clip_of_a_pair_is_given_with_all_that_is_known_of_it(judge: FlowLossFunction) -> None:
    batch, given = judge.batch([[0, 2], [1, 3]], torch.Generator().manual_seed(0))

    num_frames = 12 * NUM_SOUNDS
    assert given is not None
    assert given.tolist() == [num_frames, num_frames]
    assert batch.mel_len.tolist() == [2 * num_frames, 2 * num_frames]
    assert batch.token[1].tolist() == [*judge.codes[1].tolist(), *judge.codes[3].tolist()]
    assert torch.equal(batch.mel[1], torch.cat([judge.clips[1].mel, judge.clips[3].mel]).float().T)


def test_a_pair_sounds_through_one_microphone_that_its_vector_does_not_tell() -> None:
    plain, coloured = make_judge(coloured=False), make_judge(coloured=True)
    num_coloured = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        batch, _ = coloured.batch([[0, 2]], generator)
        expected, _ = plain.batch([[0, 2]], torch.Generator().manual_seed(seed))
        curve = batch.mel[0] - expected.mel[0]
        # the same over all frames of both clips
        torch.testing.assert_close(curve, curve[:, :1].expand_as(curve), rtol=0, atol=1e-4)
        assert torch.equal(batch.speaker_embedding, expected.speaker_embedding)
        assert torch.equal(batch.token, expected.token)
        num_coloured += bool(curve.abs().max() > 0.01)
        assert curve.abs().max() < 6.0
    assert 18 <= num_coloured <= 38
    # a clip alone is as it was recorded
    batch, _ = coloured.batch([[5]], torch.Generator().manual_seed(0))
    assert torch.equal(batch.mel[0], coloured.clips[5].mel.float().T)


def test_a_clip_has_its_own_vector_or_its_speakers_mean(judge: FlowLossFunction) -> None:
    seen = set()
    for seed in range(20):
        batch, given = judge.batch([[5]], torch.Generator().manual_seed(seed))
        assert given is None
        is_own = torch.equal(batch.speaker_embedding[0], judge.vectors[5])
        assert is_own or torch.equal(batch.speaker_embedding[0], judge.means["speaker 1"])
        seen.add(is_own)
    assert seen == {True, False}
    assert torch.allclose(judge.means["speaker 1"], F.normalize(judge.vectors[1::2].mean(0), dim=0))


def test_pairs_are_of_one_speaker(judge: FlowLossFunction) -> None:
    generator = torch.Generator().manual_seed(3)
    assert {judge._other(4, generator) for _ in range(40)} == {0, 2, 4, 6}
