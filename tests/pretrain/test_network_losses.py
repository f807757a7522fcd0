"""What the losses of vocoder and speech tokenizer ask for, and that they can be followed from a bad start."""

from __future__ import annotations

import torch

from cosyforge.cosyvoice.config import NANO
from cosyforge.cosyvoice.hift import HiFT
from cosyforge.dataset.synthetic import Clip
from cosyforge.training.pretrain.flow_stage import (
    _MELODY_SCALE,
    _MOVEMENT_SCALE,
    _VOICING_SCALE,
    PRIOR_FROM_BIN,
    melody_distance,
    movement_distance,
)
from cosyforge.training.pretrain.melody import MELODY_SPREAD, relative_log_f0
from cosyforge.training.pretrain.speech_tokenizer_stage import mel_distance, tone_labels
from cosyforge.training.pretrain.vocoder_stage import spectral_distance


def test_a_vocoder_that_starts_far_too_loud_is_told_to_be_softer() -> None:
    torch.manual_seed(0)
    assert NANO.hift is not None
    hift = HiFT(NANO.hift)
    bias = hift.conv_post.bias
    assert bias is not None
    num_bins = NANO.hift.istft_n_fft // 2 + 1
    with torch.no_grad():
        bias[:num_bins] += 3.0
    wanted = 0.05 * torch.randn(1, 20 * NANO.hift.hop)
    mel, f0 = torch.randn(1, NANO.hift.mel_bins, 20) - 4.0, torch.full((1, 20), 120.0)
    before = float(spectral_distance(hift(mel, f0=f0), wanted).detach())
    optimizer = torch.optim.Adam(hift.parameters(), lr=1e-3)

    for _ in range(12):
        optimizer.zero_grad()
        made = hift(mel, f0=f0)
        spectral_distance(made, wanted).backward()
        optimizer.step()

    assert made.detach().abs().max() <= NANO.hift.audio_limit
    assert float(spectral_distance(made.detach(), wanted)) < 0.75 * before


def test_melody_is_asked_for_whatever_the_height_and_the_range_of_the_voice() -> None:
    movement = torch.tensor([0.0, 1.0, 2.0, 1.0, -2.0, -2.0])
    voiced = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    flat, lively = (height * 2 ** (movement * octaves) * voiced for height, octaves in ((90.0, 0.05), (240.0, 0.3)))

    wanted = relative_log_f0(torch.stack([flat, lively]))

    torch.testing.assert_close(wanted[0], wanted[1], atol=1e-3, rtol=0)
    assert abs(float(wanted[0][voiced > 0].std(correction=0)) - MELODY_SPREAD) < 1e-3
    # a monotone voice's jitter is not blown up into a melody
    monotone = 100.0 * 2 ** (movement * 0.001)
    assert float(relative_log_f0(monotone[None]).abs().max()) < 0.05


def test_a_mu_that_tells_melody_and_voicing_costs_nothing_and_a_flat_one_does() -> None:
    first, second = (100.0 * 2 ** torch.tensor([0.0, 0.1, 0.2, 0.3]), torch.tensor([0.0, 220.0, 260.0]))
    f0 = [[first, second], [second]]
    mu = torch.zeros(2, 80, 7)
    mu[0, 0, :4] = relative_log_f0(first[None])[0] * _MELODY_SCALE
    mu[0, 0, 4:] = relative_log_f0(second[None])[0] * _MELODY_SCALE
    mu[1, 0, :3] = relative_log_f0(second[None])[0] * _MELODY_SCALE
    mu[0, 1] = torch.tensor([1, 1, 1, 1, -1, 1, 1]) * _VOICING_SCALE
    mu[1, 1, :3] = torch.tensor([-1, 1, 1]) * _VOICING_SCALE

    assert [float(error) for error in melody_distance(mu, f0)] == [0.0, 0.0]
    # what is said beyond the end of a row, or of melody where there is no voice, is nobody's business
    mu[1, :, 3:], mu[1, 0, 0] = 9.0, 9.0
    assert [float(error) for error in melody_distance(mu, f0)] == [0.0, 0.0]
    melody, voicing = melody_distance(torch.zeros(2, 80, 7), f0)
    assert float(melody) > 1.0
    assert float(voicing) == _VOICING_SCALE


def test_a_mu_that_tells_how_the_mel_goes_on_within_a_token_costs_nothing() -> None:
    mel, mel_len = torch.zeros(2, 80, 6), torch.tensor([6, 4])
    mel[0, :8, 1] = 1.0  # the lowest band rises within the first token
    mel[0, 62:, 3:] = -0.5  # the highest falls within the second, and stays
    mel[1, :, 4:] = 7.0  # behind the end of the clip
    mu = torch.zeros(2, 80, 6)
    mu[0, 2, :2] = _MOVEMENT_SCALE
    mu[0, PRIOR_FROM_BIN - 1, 2:4] = -0.5 * _MOVEMENT_SCALE
    mu[1, 2:PRIOR_FROM_BIN, 4:] = 9.0

    assert float(movement_distance(mu, mel, mel_len)) == 0.0
    silent = float(movement_distance(torch.zeros(2, 80, 6), mel, mel_len))
    # five tokens of six bands each
    assert abs(silent - 1.5 * _MOVEMENT_SCALE / 30) < 1e-6


def test_every_frame_of_a_final_is_labelled_with_its_tone() -> None:
    units = (("m", 0.04), ("a1", 0.12), ("SIL", 0.16), ("m", 0.20), ("a5", 0.26))
    clip = Clip("妈吗", "somebody", 0, 4800, (), "zh", units=units)

    assert tone_labels(clip, 15).tolist() == [-1, -1, 0, 0, 0, 0, -1, -1, -1, -1, 4, 4, 4, -1, -1]


def test_a_mel_at_the_wrong_time_costs_more_than_one_of_the_wrong_timbre() -> None:
    generator = torch.Generator().manual_seed(4)
    mel = torch.randn(40, 80, generator=generator)
    level = mel - mel.mean()
    beyond = torch.full((1, 3, 80), 9.0)
    drawn = torch.cat([level[None], beyond], dim=1)

    # a clip's level is nobody's business, nor what is drawn behind its end
    assert max(float(error) for error in mel_distance([mel + 3.0], drawn)) < 1e-5
    timbre = drawn + 0.5 * torch.sign(torch.randn(80, generator=generator))
    error, movement = mel_distance([mel], timbre)
    assert abs(float(error) - 0.5) < 1e-5
    assert float(movement) < 1e-5
    shaken = drawn + 0.5 * (-1.0) ** torch.arange(43)[None, :, None]
    error, movement = mel_distance([mel], shaken)
    assert abs(float(error) - 0.5) < 1e-5
    # from frame to frame it changes by one, over two frames not at all
    assert abs(float(movement) - 0.5 * 39 / 40) < 1e-5
