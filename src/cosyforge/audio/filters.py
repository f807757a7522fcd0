"""Recursive filters that run on a stream: second-order sections from the usual formulas, a chain of them in one pass.

A chain is held as one linear system (state, input) -> (state, output). A block of samples is then two matrix products:
what the samples of the block do by themselves, and what the state before it adds. That is exact and needs no loop over
samples; blocks of any length give the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
_Matrix = npt.NDArray[np.float64]

_BLOCK = 128
BUTTERWORTH_4_Q = (0.54119610, 1.30656296)
"""Qualities of two sections that together are a Butterworth filter of fourth order."""


@dataclass(frozen=True)
class Section:
    """y[n] = b0 x[n] + b1 x[n-1] + b2 x[n-2] - a1 y[n-1] - a2 y[n-2]"""

    b0: float
    b1: float
    b2: float
    a1: float
    a2: float


def low_pass(cutoff_hz: float, q: float, sample_rate_hz: int) -> Section:
    """Source: Bristow-Johnson, Cookbook formulae for audio equalizer biquad filter coefficients; so for all three"""
    cosine, alpha = _angle(cutoff_hz, q, sample_rate_hz)
    return _section(((1 - cosine) / 2, 1 - cosine, (1 - cosine) / 2), (1 + alpha, -2 * cosine, 1 - alpha))


def high_pass(cutoff_hz: float, q: float, sample_rate_hz: int) -> Section:
    cosine, alpha = _angle(cutoff_hz, q, sample_rate_hz)
    return _section(((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2), (1 + alpha, -2 * cosine, 1 - alpha))


def peak(centre_hz: float, q: float, gain_db: float, sample_rate_hz: int) -> Section:
    """Raise or lower a band around the centre and leave the rest alone."""
    cosine, alpha = _angle(centre_hz, q, sample_rate_hz)
    gain = 10 ** (gain_db / 40)
    return _section(
        (1 + alpha * gain, -2 * cosine, 1 - alpha * gain), (1 + alpha / gain, -2 * cosine, 1 - alpha / gain)
    )


def _angle(frequency_hz: float, q: float, sample_rate_hz: int) -> tuple[float, float]:
    angle = 2 * math.pi * frequency_hz / sample_rate_hz
    return math.cos(angle), math.sin(angle) / (2 * q)


def _section(b: tuple[float, float, float], a: tuple[float, float, float]) -> Section:
    return Section(b[0] / a[0], b[1] / a[0], b[2] / a[0], a[1] / a[0], a[2] / a[0])


class FilterChain:
    """Sections one after the other; keeps what it needs of the samples before."""

    def __init__(self, sections: Sequence[Section]) -> None:
        step, into, out, direct = _chained(sections)
        size = step.shape[0]
        # all that a block needs: powers of the step, the answer to one impulse, and how samples end up in the state
        self._powers = np.empty((_BLOCK + 1, size, size))
        self._powers[0] = np.eye(size)
        for index in range(_BLOCK):
            self._powers[index + 1] = self._powers[index] @ step
        from_past = np.einsum("kij,j->ki", self._powers[:_BLOCK], into)
        self._heard = np.einsum("i,kij->kj", out, self._powers[:_BLOCK])  # (k, state) -> output k samples later
        impulse = np.concatenate([[direct], (from_past @ out)[: _BLOCK - 1]])
        lag = np.arange(_BLOCK)[:, None] - np.arange(_BLOCK)[None, :]
        self._within = np.where(lag >= 0, impulse[np.clip(lag, 0, None)], 0.0)
        self._gathers = from_past[::-1].copy()  # row k: what the sample that is _BLOCK - 1 - k from the end adds
        self._state = np.zeros(size)

    def push(self, samples: Samples) -> Samples:
        """Shapes: (L,) -> (L,)"""
        given = samples.astype(np.float64)
        num_whole = given.size // _BLOCK
        whole = self._whole_blocks(given[: num_whole * _BLOCK].reshape(num_whole, _BLOCK))
        rest = self._part(given[num_whole * _BLOCK :])
        return np.concatenate([whole, rest]).astype(np.float32)

    def _whole_blocks(self, blocks: _Matrix) -> _Matrix:
        states = np.empty((blocks.shape[0], self._state.size))
        gathered = blocks @ self._gathers
        over_block = self._powers[_BLOCK]
        for index in range(blocks.shape[0]):
            states[index] = self._state
            self._state = over_block @ self._state + gathered[index]
        result: _Matrix = blocks @ self._within.T + states @ self._heard.T
        return result.reshape(-1)

    def _part(self, given: _Matrix) -> _Matrix:
        size = given.size
        if not size:
            return given
        result: _Matrix = self._within[:size, :size] @ given + self._heard[:size] @ self._state
        self._state = self._powers[size] @ self._state + given @ self._gathers[_BLOCK - size :]
        return result


def _chained(sections: Sequence[Section]) -> tuple[_Matrix, _Matrix, _Matrix, float]:
    """One system for the whole chain: state' = step state + into x, y = out state + direct x."""
    step, into, out, direct = np.zeros((0, 0)), np.zeros(0), np.zeros(0), 1.0
    for section in sections:
        # transposed direct form II
        own_step = np.array([[-section.a1, 1.0], [-section.a2, 0.0]])
        own_into = np.array([section.b1 - section.a1 * section.b0, section.b2 - section.a2 * section.b0])
        step = np.block([[step, np.zeros((into.size, 2))], [np.outer(own_into, out), own_step]])
        into = np.concatenate([into, own_into * direct])
        out = np.concatenate([section.b0 * out, [1.0, 0.0]])
        direct *= section.b0
    return step, into, out, direct
