"""Repetition-aware sampling against a plain restatement of its rule, and its limits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cosyforge.cosyvoice.config import SamplingConfig
from cosyforge.cosyvoice.sampling import nucleus, ras_distribution, ras_sample

CONFIG = SamplingConfig(top_p=0.7, top_k=5, window=4, tau=0.3)


def scores(probability: list[float]) -> Tensor:
    return torch.tensor(probability).log()


def expected_distribution(probability: list[float], history: list[int], config: SamplingConfig) -> list[float]:
    """The rule in plain words and loops: nucleus, first draw, strike out what repeats, second draw over the rest."""
    powers = [p ** (1 / config.temperature) for p in probability]
    probability = [p / sum(powers) for p in powers]
    order = sorted(range(len(probability)), key=lambda token: (-probability[token], token))
    candidates: list[int] = []
    collected = 0.0
    for token in order:
        if collected >= config.top_p or len(candidates) == config.top_k:
            break
        candidates.append(token)
        collected += probability[token]
    result = [0.0] * len(probability)
    for token in candidates:
        mass = probability[token] / collected
        if history[-config.window :].count(token) < config.window * config.tau:
            result[token] += mass
            continue
        rest = 1 - probability[token]
        for other, p in enumerate(probability):
            result[other] += 0.0 if other == token else mass * p / rest
    return result


PEAKED = [0.05, 0.4, 0.3, 0.15, 0.06, 0.04]
FLAT = [0.11, 0.13, 0.12, 0.1, 0.09, 0.08, 0.14, 0.07, 0.16]


@pytest.mark.parametrize("probability", [PEAKED, FLAT])
@pytest.mark.parametrize("history", [[], [1], [1, 1], [2, 1, 1, 3, 3], [1, 1, 0, 0, 0, 0], [1, 2, 1, 2]])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_distribution_follows_the_rule(probability: list[float], history: list[int], temperature: float) -> None:
    config = replace(CONFIG, temperature=temperature)
    result = ras_distribution(scores(probability), history, config)
    assert result.tolist() == pytest.approx(expected_distribution(probability, history, config), abs=1e-6)
    assert float(result.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("history", [[], [1, 1, 2, 2]])
def test_draws_have_the_stated_distribution(history: list[int]) -> None:
    generator = torch.Generator().manual_seed(5)
    num_draws = 4000
    counts = Counter(ras_sample(scores(PEAKED), history, CONFIG, generator) for _ in range(num_draws))
    for token, probability in enumerate(ras_distribution(scores(PEAKED), history, CONFIG).tolist()):
        deviation = math.sqrt(probability * (1 - probability) / num_draws)
        assert abs(counts[token] / num_draws - probability) <= 4 * deviation


def test_nucleus_stops_before_a_token_once_top_p_is_reached() -> None:
    token, probability = nucleus(scores([0.5, 0.25, 0.125, 0.125]), replace(CONFIG, top_p=0.75))
    assert token.tolist() == [0, 1]
    assert probability.tolist() == pytest.approx([0.5, 0.25])


def test_nucleus_holds_at_most_top_k_and_keeps_ties_in_order() -> None:
    token, _ = nucleus(scores([0.0005] * 2000), replace(CONFIG, top_p=0.95, top_k=3))
    assert token.tolist() == [0, 1, 2]


def test_a_repeated_token_gives_way_to_any_other_even_outside_the_nucleus() -> None:
    """The second draw knows neither top_p nor top_k, so a stop id can come here."""
    result = ras_distribution(scores([0.9, 0.06, 0.04]), [0], SamplingConfig(top_p=0.5))
    assert result.tolist() == pytest.approx([0.0, 0.6, 0.4], abs=1e-6)


def test_only_the_window_counts() -> None:
    config = SamplingConfig(top_p=0.3, window=2)
    assert float(ras_distribution(scores(PEAKED), [1, 0, 0], config)[1]) == 1.0
    assert float(ras_distribution(scores(PEAKED), [0, 1, 0], config)[1]) == 0.0


def test_a_window_of_zero_switches_the_repetition_rule_off() -> None:
    assert float(ras_distribution(scores(PEAKED), [1] * 20, SamplingConfig(top_p=0.1, window=0))[1]) == 1.0


def test_top_k_of_one_is_greedy_and_may_repeat() -> None:
    config = SamplingConfig(top_k=1)
    assert [ras_sample(scores(PEAKED), [1] * n, config) for n in range(12)] == [1] * 12
    assert ras_distribution(scores(PEAKED), [1] * 12, config).tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("temperature", [0.0, 1e-4, 1e-30])
def test_temperature_towards_zero_takes_the_likeliest_token_that_does_not_repeat(temperature: float) -> None:
    config = SamplingConfig(temperature=temperature)
    for history, expected in ([], 1), ([1], 2), ([2], 1):
        assert ras_sample(scores(PEAKED), history, config) == expected
        assert float(ras_distribution(scores(PEAKED), history, config)[expected]) == pytest.approx(1.0)


def test_a_forbidden_row_is_never_drawn() -> None:
    log_probs = scores(PEAKED)
    log_probs[1] = float("-inf")
    generator = torch.Generator().manual_seed(1)
    drawn = [ras_sample(log_probs, [2, 2, 3, 3], CONFIG, generator) for _ in range(300)]
    assert 1 not in drawn
    assert len(set(drawn)) > 2


def test_same_generator_seed_gives_the_same_draws_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, second = (
        [ras_sample(scores(FLAT), [], CONFIG, generator) for _ in range(30)]
        for generator in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    )
    assert first == second
    assert len(set(first)) > 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bad", [{"top_k": 0}, {"temperature": -0.1}])
def test_impossible_settings_are_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="top_k >= 1 and temperature >= 0"):
        ras_sample(scores(PEAKED), [], replace(CONFIG, **bad))  # type: ignore[arg-type]
