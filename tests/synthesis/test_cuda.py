"""On a CUDA device the engine says what it says on the processor; the device is only pretended, and says nothing of its speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosyforge.cosyvoice.candidates import Candidates
from cosyforge.cosyvoice.manifest import builtin_model_directory
from cosyforge.cosyvoice.weights import load_model
from cosyforge.errors import InvalidParameter
from cosyforge.synthesis.engine import Engine
from cosyforge.synthesis.request import SynthesisRequest
from pretend_cuda import pretended_cuda

PCM = SynthesisRequest(voice="alto", format="pcm", sample_rate_hz=24000, seed=7)
TEXT = "This is a longer sentence, so that it comes in several chunks of sound, one after the other, you see."


def spoken(engine: Engine, request: SynthesisRequest, text: str = TEXT) -> np.ndarray:
    audio = b"".join(chunk.audio for chunk in engine.synthesize(request, [text]))
    return np.frombuffer(audio, "<i2").astype(np.float32) / 32767


def assert_same_sound(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0.001
    assert np.abs(ours - theirs).max() < 2e-3


@pytest.mark.parametrize("request_", [PCM, replace(PCM, streaming=True), replace(PCM, voice="plain", streaming=True)])
def test_prompted_and_plain_voices_at_once_and_streamed(
    engine: Engine, model_directory: Path, request_: SynthesisRequest
) -> None:
    with pretended_cuda():
        ours = spoken(Engine(model_directory, device="cuda"), request_)

    assert_same_sound(ours, spoken(engine, request_))


def test_a_tuned_model(tuned_directory: Path) -> None:
    request = replace(PCM, voice="default")
    with pretended_cuda():
        ours = spoken(Engine(tuned_directory, device="cuda"), request)

    assert_same_sound(ours, spoken(Engine(tuned_directory), request))


def test_the_built_in_base_with_words_that_are_asked_for() -> None:
    request = replace(PCM, voice="lena", instruction="lively", word_timestamps=True)
    with pretended_cuda():
        ours = spoken(Engine(builtin_model_directory(), device="cuda"), request, "I see.")

    assert_same_sound(ours, spoken(Engine(builtin_model_directory()), request, "I see."))


@torch.no_grad()
def test_rows_that_are_held_to_their_place() -> None:
    """What a stretch that went wrong is drawn again with."""

    def drawn(device: str) -> list[list[int]]:
        model = load_model(builtin_model_directory(), device=device, networks=("lm",))
        text = model.text_tokenizer.encode("hello")
        candidates = Candidates(model.lm, text, [], [], num_rows=3, sampling=model.sampling, min_len=1, max_len=30)
        candidates.begin([1, 2, 3])
        for _ in range(4):
            candidates.draw()
        candidates.choose(1)
        candidates.begin([4, 5, 6], place=1)
        for _ in range(4):
            candidates.draw()
        return candidates.drawn

    with pretended_cuda():
        ours = drawn("cuda")

    assert ours == drawn("cpu")


def test_a_device_that_is_not_there_is_refused(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidParameter, match="this machine has no device 'cuda'"):
        Engine(model_directory, device="cuda")
