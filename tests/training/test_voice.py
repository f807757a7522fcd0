"""The prompt of a voice: clean, handy and typical."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dataset_packages import tone

from cosyforge.training.voice import (
    MAX_CANDIDATES,
    PromptFigures,
    choose_prompt,
    measure_prompt,
    odd_voices,
    prompt_candidates,
)

TYPICAL = PromptFigures(
    duration_s=5.0, snr_db=45.0, clipped_share=0.0, longest_pause_s=0.2, median_f0_hz=120.0, pace=14.0, likeness=0.9
)


def others() -> list[PromptFigures]:
    """An ordinary spread of clips, none of them in the very middle."""
    return [
        replace(TYPICAL, median_f0_hz=120.0 + shift, pace=14.0 + shift / 10, likeness=0.9 - abs(shift) / 200)
        for shift in (-12, -8, -5, 5, 8, 12)
    ]


def test_clips_of_a_handy_length_are_measured() -> None:
    assert prompt_candidates([1.0, 3.0, 5.5, 8.0, 8.1, 20.0]) == [1, 2, 3]


def test_without_such_clips_the_nearest_are_measured() -> None:
    assert prompt_candidates([1.0, 20.0, 2.5])[:2] == [2, 0]


def test_a_large_set_is_sampled_from_end_to_end() -> None:
    candidates = prompt_candidates([5.0] * 5000)

    assert len(candidates) <= MAX_CANDIDATES
    assert candidates[-1] > 4900


def test_the_typical_clip_is_chosen() -> None:
    assert choose_prompt([*others(), TYPICAL]) == 6


@pytest.mark.parametrize(
    "fault",
    [
        {"snr_db": 8.0},
        {"clipped_share": 0.02},
        {"longest_pause_s": 2.0},
        {"median_f0_hz": 210.0},
        {"median_f0_hz": None},
        {"pace": 22.0},
        {"likeness": 0.4},
        {"duration_s": 28.0},
    ],
)
def test_a_fault_costs_a_clip_its_place(fault: dict[str, float | None]) -> None:
    faulty = replace(TYPICAL, **fault)  # type: ignore[arg-type]

    assert choose_prompt([*others(), faulty]) != 6


def test_one_clip_is_chosen_for_want_of_others() -> None:
    assert choose_prompt([replace(TYPICAL, median_f0_hz=None)]) == 0
    with pytest.raises(ValueError, match="no clip"):
        choose_prompt([])


def test_noise_shows_in_the_figures() -> None:
    clean = tone(4.0)
    noise = np.random.default_rng(0).normal(0, 0.05, len(clean)).astype(np.float32)

    quiet, noisy = (measure_prompt(samples, 24_000, "Good morning.", 0.9) for samples in (clean, clean + noise))

    assert quiet.snr_db > noisy.snr_db + 5
    assert quiet.median_f0_hz == pytest.approx(150, rel=0.02)
    assert quiet.duration_s == pytest.approx(4.0)
    assert quiet.pace > 0


def test_a_clip_of_another_speaker_is_pointed_at() -> None:
    assert odd_voices([0.9, 0.88, 0.91, 0.35, 0.87, 0.92, 0.9]) == [3]


@pytest.mark.parametrize("likeness", [[0.9], [0.9, 0.88, 0.91, 0.8], [0.9, 0.4, 0.7, 0.5, 0.8, 0.6], [1.0] * 9])
def test_an_ordinary_spread_is_not_pointed_at(likeness: list[float]) -> None:
    assert odd_voices(likeness) == []
