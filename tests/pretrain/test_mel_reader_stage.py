"""A reader of mels: it learns to tell sounds apart, and says of a drawn mel how far from the recording it is."""

from __future__ import annotations

import torch
from prepared_clips import three_sounds

from cosyforge.training.pretrain.mel_reader_stage import MelReader, MelReaderLoss, reading_distance


def test_it_learns_to_tell_sounds_apart_and_leaves_unlabelled_clips_alone() -> None:
    torch.manual_seed(0)
    reader = MelReader(width=32, depth=2)
    clips = [three_sounds(number, is_labelled=number % 4 != 0) for number in range(16)]
    judge = MelReaderLoss(reader, clips, frames_per_batch=200)
    assert len(judge.clips) == 12
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)

    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = judge(0, generator)
        loss.backward()
        optimizer.step()

    _, figures = judge(0, generator)
    assert figures["correct"] > 0.9


@torch.no_grad()
def test_the_recording_itself_is_no_distance_away_and_a_blurred_one_is() -> None:
    torch.manual_seed(0)
    reader = MelReader(width=32, depth=2)
    clips = [three_sounds(1), three_sounds(2)]
    mel = torch.stack([clip.mel.float().T for clip in clips])
    labels = [clip.label.long() for clip in clips]
    num_frames = torch.tensor([36, 30])
    # behind the end of the second row anything may be drawn
    drawn = mel.clone()
    drawn[1, :, 30:] += 5.0

    phone, distance = reading_distance(reader, drawn, mel, num_frames, labels)

    assert float(distance) == 0.0
    expected, _ = reading_distance(reader, mel, mel, num_frames, [labels[0], labels[1][:30]])
    torch.testing.assert_close(phone, expected)
    blurred = torch.nn.functional.avg_pool1d(mel, 9, stride=1, padding=4, count_include_pad=False)
    _, further = reading_distance(reader, blurred, mel, num_frames, labels)
    assert float(further) > 0.05


def test_only_the_drawn_mel_is_told_to_change() -> None:
    torch.manual_seed(0)
    reader = MelReader(width=32, depth=2).eval().requires_grad_(False)
    mel = torch.stack([three_sounds(3).mel.float().T])
    drawn = (mel + 0.5).requires_grad_()

    phone, distance = reading_distance(reader, drawn, mel, torch.tensor([30]), [torch.full((36,), -1)])
    distance.backward()

    # nobody knows what is said: nothing is asked of the phones
    assert phone.item() == 0.0
    assert drawn.grad is not None
    assert drawn.grad[:, :, :30].abs().sum() > 0
    assert drawn.grad[:, :, 30:].abs().sum() == 0
    assert all(parameter.grad is None for parameter in reader.parameters())
