from __future__ import annotations

import numpy as np
import pytest

from cosyforge.evaluation.confusion import confusion, gap_closed


def vector(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def test_a_voice_that_sounds_like_another_is_named() -> None:
    references = {"ann": vector(0), "bob": vector(40), "cat": vector(80)}
    spoken = {"ann": [vector(5), vector(10)], "bob": [vector(70), vector(65)], "cat": [vector(80), vector(45)]}

    found = confusion(spoken, references, dict.fromkeys(references, "recordings"))

    assert found.closest == ("ann", "cat", "cat")
    assert found.num_right == 2
    assert found.margin[0] == pytest.approx(np.cos(np.radians(7.5)) - np.cos(np.radians(32.5)), abs=1e-3)
    assert found.margin[1] < 0
    assert found.clip_share == pytest.approx(3 / 6)
    assert found.matrix[1][1] == pytest.approx(np.cos(np.radians(27.5)), abs=1e-3)


def test_one_voice_or_a_voice_without_reference_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="needs two"):
        confusion({"ann": [vector(0)]}, {"ann": vector(0)}, {})
    with pytest.raises(ValueError, match="bob"):
        confusion({"ann": [vector(0)], "bob": [vector(9)]}, {"ann": vector(0)}, {})


def test_the_gap_is_measured_from_another_voice_to_copy_synthesis() -> None:
    assert gap_closed(0.6, 0.75, 0.9) == pytest.approx(0.5)
    assert gap_closed(0.6, 0.5, 0.9) == pytest.approx(-1 / 3)
    assert gap_closed(0.9, 0.9, 0.9) is None
