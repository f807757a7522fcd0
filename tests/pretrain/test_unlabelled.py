"""Recordings without phone times are written exactly as the engine would read their text."""

from __future__ import annotations

import pytest
import torch

from cosyforge.cosyvoice.config import LMConfig
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.text.frontend import Frontend
from cosyforge.training.pretrain.lm_stage import LMExample, LMLossFunction
from cosyforge.training.pretrain.unlabelled import UNKNOWN, unaligned_writings, write_unaligned

TOKENIZER = TextTokenizer.byte_level()
FRONTEND = Frontend({"languages": ["en", "zh"], "english": "phones", "mandarin": "pinyin", "prefix": "<|endofprompt|>"})
KNOWN = "The doctor's well-known cat sleeps, again."


@pytest.mark.parametrize(
    ("text", "language", "spoken"),
    [
        ("Hello, my cat.", "en", "[HH][AH][L][OW], [M][AY] [K][AE][T]."),
        ("It's Zyzzqx!", "en", "[IH][T][S] zyzzqx!"),
        ("你好，Tom。", "zh", "[n][ǐ][h][ǎo], [T][AA][M]."),
    ],
)
def test_a_recording_is_written_by_its_sounds(text: str, language: str, spoken: str) -> None:
    assert write_unaligned(text, language, TOKENIZER, FRONTEND) == TOKENIZER.encode(spoken)


def test_the_engine_reads_the_same_tokens() -> None:
    text = "Doctor Smith paid five dollars. Then he left, I think."
    read = " ".join(segment.spoken for segment in FRONTEND.segments(text))
    assert write_unaligned(text, "en", TOKENIZER, FRONTEND) == TOKENIZER.encode(read)


def test_chosen_words_are_written_in_letters_in_every_sentence() -> None:
    text = "My cat sleeps. It's the doctor's café."
    spoken = "[M][AY] cat [S][L][IY][P][S]. it's [DH][AH] [D][AA][K][T][ER][Z] cafe."
    assert write_unaligned(text, "en", TOKENIZER, FRONTEND, frozenset({1, 3, 6})) == TOKENIZER.encode(spoken)


def test_all_words_in_letters_leave_no_phone() -> None:
    written = write_unaligned(KNOWN, "en", TOKENIZER, FRONTEND, frozenset(range(9)))
    assert TOKENIZER.decode(written) == "the doctor's well known cat sleeps, again."


def test_the_two_writings_are_repeatable_and_aligned_nowhere() -> None:
    writings = unaligned_writings(KNOWN, "en", 40, TOKENIZER, FRONTEND, seed=1)
    assert writings == unaligned_writings(KNOWN, "en", 40, TOKENIZER, FRONTEND, seed=1)
    (by_sounds, first), (mixed, second) = writings
    assert first == second == [UNKNOWN] * 40
    assert by_sounds == write_unaligned(KNOWN, "en", TOKENIZER, FRONTEND)
    in_letters = write_unaligned(KNOWN, "en", TOKENIZER, FRONTEND, frozenset(range(9)))
    assert mixed not in (by_sounds, in_letters)
    assert unaligned_writings(KNOWN, "en", 40, TOKENIZER, FRONTEND, seed=4)[1][0] == in_letters


def test_unaligned_recordings_are_learnt_from_and_the_guided_head_gets_no_lesson() -> None:
    torch.manual_seed(0)
    config = LMConfig(
        text_vocab_size=TOKENIZER.vocab_size, hidden_size=32, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=16,
        intermediate_size=48, speech_token_size=27,
    )  # fmt: skip
    code = torch.randint(27, (24,))
    examples = []
    for seed in range(4):
        writings = unaligned_writings(KNOWN, "en", len(code), TOKENIZER, FRONTEND, seed)
        examples.append(LMExample("someone", code, tuple((torch.tensor(t), torch.tensor(a)) for t, a in writings)))
    lm = SpeechLM(config)
    loss_function = LMLossFunction(lm, examples, TOKENIZER, tokens_per_batch=160)
    optimizer = torch.optim.Adam(lm.parameters(), 1e-2)
    losses = []
    for step in range(25):
        optimizer.zero_grad()
        loss, figures = loss_function(step, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        losses.append(figures["lm"])
        assert figures["guide"] == 0.0
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
