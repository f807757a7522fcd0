"""Repetition-aware sampling against the reference: exact probabilities, nucleus, and the draws of a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from cosyforge.cosyvoice.config import SamplingConfig
from cosyforge.cosyvoice.sampling import nucleus, ras_distribution, ras_sample

from .conftest import LoadJson, LoadTensors


@dataclass(frozen=True)
class Case:
    name: str
    tensors: dict[str, torch.Tensor]

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[f"{self.name}.{key}"]

    @property
    def history(self) -> list[int]:
        return self["history"].tolist()


@pytest.fixture(scope="module")
def sampling(load_json: LoadJson) -> SamplingConfig:
    config = load_json("ras")["config"]
    return SamplingConfig(top_p=config["top_p"], top_k=config["top_k"], window=config["win_size"], tau=config["tau_r"])


@pytest.fixture(scope="module")
def cases(load_tensors: LoadTensors) -> list[Case]:
    tensors = load_tensors("ras.io")
    names = sorted({key.split(".")[0] for key in tensors})
    assert names
    return [Case(name, tensors) for name in names]


def test_nucleus_is_the_references(cases: list[Case], sampling: SamplingConfig) -> None:
    for case in cases:
        token, _ = nucleus(case["logp"], sampling)
        assert token.tolist() == case["nucleus"].tolist(), case.name


def test_distribution_is_the_references(cases: list[Case], sampling: SamplingConfig) -> None:
    worst = 0.0
    for case in cases:
        difference = ras_distribution(case["logp"], case.history, sampling) - case["probability"]
        worst = max(worst, float(difference.abs().max()))
    print(f"probability: max abs difference {worst:.1e}")
    assert worst < 1e-6


def test_draws_with_the_global_seed_are_the_references(cases: list[Case], sampling: SamplingConfig) -> None:
    for case in cases:
        expected = case["draws_torch_seed_1234"].tolist()
        torch.manual_seed(1234)
        drawn = [ras_sample(case["logp"], case.history, sampling) for _ in expected]
        assert drawn == expected, case.name


def test_draws_leave_scores_and_history_as_they_were(cases: list[Case], sampling: SamplingConfig) -> None:
    for case in cases:
        log_probs, history = case["logp"].clone(), case.history
        for _ in range(20):
            ras_sample(log_probs, history, sampling)
        assert torch.equal(log_probs, case["logp"])
        assert history == case.history
