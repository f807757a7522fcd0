"""Repetition-aware sampling: scores of the next token and what was said before -> one token.

Source: Chen et al., VALL-E 2 (repetition aware sampling), with the nucleus and the second draw of CosyVoice 3
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cosyforge.cosyvoice.config import SamplingConfig


def ras_sample(
    log_probs: Tensor, history: Sequence[int], config: SamplingConfig, generator: torch.Generator | None = None
) -> int:
    """Draw from the nucleus; a token said too often of late is struck out and the draw repeated over all others.

    top_k = 1 is greedy: always the likeliest token, and it may repeat. temperature = 0 is the limit of the rule: the
    likeliest token, or the next likely when it repeats. `generator` None draws from torch's global one.
    Shapes: log_probs (V,)
    Raises: ValueError when top_k or temperature cannot be
    """
    _check(config)
    log_probs = log_probs.float().cpu()
    if config.top_k == 1:
        return int(log_probs.argmax())
    candidates, probability = nucleus(log_probs, config)
    token = int(candidates[_draw(probability, generator)])
    if not _is_repeated(token, history, config):
        return token
    return _draw(_others(log_probs, token, config), generator)


def ras_sample_rows(
    log_probs: Tensor,
    histories: Sequence[Sequence[int]],
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
) -> list[int]:
    """One token per row, with the distribution of `ras_sample` (not its draws); the nuclei are found in one go.

    Shapes: log_probs (B, V); one history and one generator per row
    """
    _check(config)
    log_probs = log_probs.float().cpu()
    if config.top_k == 1:
        return [int(token) for token in log_probs.argmax(dim=-1)]
    best, candidates = _softmax(log_probs, config).topk(min(config.top_k, log_probs.shape[-1]), dim=-1)
    tokens = []
    for row, (probability, token_row) in enumerate(zip(best.tolist(), candidates.tolist(), strict=True)):
        token = _draw_from_nucleus(probability, token_row, config.top_p, generators[row])
        if _is_repeated(token, histories[row], config):
            token = _draw(_others(log_probs[row], token, config), generators[row])
        tokens.append(token)
    return tokens


def _draw_from_nucleus(probability: list[float], token: list[int], top_p: float, generator: torch.Generator) -> int:
    """Draw from the leading tokens whose probability reaches top_p together."""
    size, mass = 0, 0.0
    while size < len(token) and (size == 0 or mass < top_p):
        mass += probability[size]
        size += 1
    left = float(torch.rand(1, generator=generator)) * mass
    for index in range(size - 1):
        left -= probability[index]
        if left < 0.0:
            return token[index]
    return token[size - 1]


def ras_distribution(log_probs: Tensor, history: Sequence[int], config: SamplingConfig) -> Tensor:
    """The exact probabilities with which `ras_sample` gives each token.

    Shapes: log_probs (V,) -> (V,) float64, summing to one
    """
    _check(config)
    log_probs = log_probs.double().cpu()
    result = torch.zeros_like(log_probs)
    if config.top_k == 1:
        result[log_probs.argmax()] = 1.0
        return result
    candidates, probability = nucleus(log_probs, config)
    for token, mass in zip(candidates.tolist(), probability / probability.sum(), strict=True):
        if _is_repeated(token, history, config):
            result += mass * _others(log_probs, token, config)
        else:
            result[token] += mass
    return result


def _check(config: SamplingConfig) -> None:
    if config.top_k < 1 or config.temperature < 0:
        raise ValueError(
            "sampling needs top_k >= 1 and temperature >= 0, "
            f"got top_k {config.top_k} and temperature {config.temperature}"
        )


def nucleus(log_probs: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, best first, until their probability reaches top_p or there are top_k.

    Shapes: log_probs (V,) -> tokens (n,), their probabilities (n,), not renormalised
    """
    probability, token = _softmax(log_probs, config).sort(descending=True, stable=True)
    probability, token = probability[: config.top_k], token[: config.top_k]
    before = F.pad(probability.cumsum(0)[:-1], (1, 0))
    size = max(1, int((before < config.top_p).sum()))
    return token[:size], probability[:size]


def _others(log_probs: Tensor, token: int, config: SamplingConfig) -> Tensor:
    rest = log_probs.clone()
    rest[token] = float("-inf")
    return _softmax(rest, config)


def _softmax(log_probs: Tensor, config: SamplingConfig) -> Tensor:
    if config.temperature == 0.0:  # the limit: all on the best
        return F.one_hot(log_probs.argmax(dim=-1), log_probs.shape[-1]).to(log_probs.dtype)
    if config.temperature == 1.0:
        return log_probs.softmax(dim=-1)
    # the best score becomes 0, so that a small temperature cannot overflow
    return ((log_probs - log_probs.amax(dim=-1, keepdim=True)) / config.temperature).softmax(dim=-1)


def _is_repeated(token: int, history: Sequence[int], config: SamplingConfig) -> bool:
    """Whether the last `window` tokens hold it at least `window * tau` times; a window of 0 switches the rule off."""
    return config.window > 0 and history[-config.window :].count(token) >= config.window * config.tau


def _draw(probability: Tensor, generator: torch.Generator | None) -> int:
    return int(torch.multinomial(probability, 1, replacement=True, generator=generator))
