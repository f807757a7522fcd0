"""Which epochs are kept, how they combine into checkpoints, their order and names, and what a run costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from cosyforge.training.hyper_parameters import HyperParameters

MAX_CHECKPOINTS = 10
"""Source: product document, "Checkpoints", step 4."""

TOKENS_PER_SECOND = 25
"""Rate of the speech tokenizer, and of the bill."""


@dataclass(frozen=True)
class Candidate:
    """One pair of trained networks.

    Source: product document, "Checkpoints", step 5 for the name; the wire's `step` is the same number
    """

    lm_epoch: int
    fm_epoch: int

    @property
    def product(self) -> int:
        return self.lm_epoch * self.fm_epoch

    @property
    def name(self) -> str:
        return f"checkpoint-{self.lm_epoch:04d}{self.fm_epoch:04d}"

    @property
    def step(self) -> int:
        return self.lm_epoch * 10_000 + self.fm_epoch


def select_epochs(max_epoch: int, step: int, num: int) -> Sequence[int]:
    """The epochs of one network that may be kept, last first; fewer than num where the steps would pass epoch 1."""
    return range(max_epoch, 0, -step)[:num]


def plan_checkpoints(hyper: HyperParameters) -> list[Candidate]:
    """Every checkpoint of a job in rank order: by product of the epochs, at equal products the higher LM epoch first.

    Source: product document, "Checkpoints", steps 1-4
    """
    # a pair ranks behind every pair that is later in one network and no earlier in the other, so the eleventh
    # selection of either network is never among the ten; this also bounds the work for num up to 2147483647
    lm_epochs = select_epochs(hyper.lm_max_epoch, hyper.lm_step, hyper.lm_num)[:MAX_CHECKPOINTS]
    fm_epochs = select_epochs(hyper.fm_max_epoch, hyper.fm_step, hyper.fm_num)[:MAX_CHECKPOINTS]
    candidates = [Candidate(lm_epoch, fm_epoch) for lm_epoch in lm_epochs for fm_epoch in fm_epochs]
    candidates.sort(key=lambda candidate: (-candidate.product, -candidate.lm_epoch))
    return candidates[:MAX_CHECKPOINTS]


def saved_epochs(hyper: HyperParameters) -> tuple[set[int], set[int]]:
    """The LM and the flow epochs whose weights the planned checkpoints need; no other epoch is worth its disk."""
    candidates = plan_checkpoints(hyper)
    return {candidate.lm_epoch for candidate in candidates}, {candidate.fm_epoch for candidate in candidates}


def billed_tokens(total_seconds: float | Decimal, hyper: HyperParameters) -> int:
    """(lm_max_epoch + fm_max_epoch) x 25 x the seconds of all clips, rounded half up.

    Source: product document, "Training costs"; its benchmark: 497.03 s, 4 + 4 epochs -> 99406
    """
    epochs = hyper.lm_max_epoch + hyper.fm_max_epoch
    # str() gives the decimal number a person sees; exact binary expansions would round .5 cases by representation
    tokens = Decimal(str(total_seconds)) * TOKENS_PER_SECOND * epochs
    return int(tokens.quantize(Decimal(1), rounding=ROUND_HALF_UP))
