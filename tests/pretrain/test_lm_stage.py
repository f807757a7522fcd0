"""Writing, aligning and scoring sentences for the speech LM."""

from __future__ import annotations

import torch

from cosyforge.cosyvoice.config import LMConfig
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.dataset.synthetic import Clip
from cosyforge.text.frontend import Frontend
from cosyforge.training.pretrain.lm_stage import (
    LMLossFunction,
    align_text,
    alignment_loss,
    make_example,
    write_spoken,
)

TOKENIZER = TextTokenizer.byte_level()
CONFIG = LMConfig(
    text_vocab_size=544, hidden_size=32, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=16,
    intermediate_size=48, speech_token_size=27,
)  # fmt: skip


def clip(text: str, phones: list[tuple[str, float]]) -> Clip:
    return Clip(text, "someone", 0, int(phones[-1][1] * 16000), tuple(phones))


HELLO = clip(
    "Hello, you.",
    [("SIL", 0.08), ("HH", 0.16), ("AH", 0.24), ("L", 0.32), ("OW", 0.48), ("SIL", 0.6), ("Y", 0.68), ("UW", 0.8),
     ("SIL", 0.96)],
)  # fmt: skip


def test_training_writes_sentences_as_the_front_end_does() -> None:
    frontend = Frontend({"languages": ["en"], "english": "phones", "prefix": "<|endofprompt|>"})
    for text in ("There is a large garden behind my house.", "Well, who knows?", "It's the doctor's car!"):
        spoken = " ".join(segment.spoken for segment in frontend.segments(text))
        assert TOKENIZER.decode(write_spoken(text, TOKENIZER, set()).token) == spoken


def test_every_speech_token_points_at_the_phone_being_spoken() -> None:
    spoken = write_spoken(HELLO.text, TOKENIZER, set())
    aligned = align_text(spoken, HELLO, 24)
    phones = [spoken.phone[index] for index in aligned]
    assert phones[2:12] == ["HH", "HH", "AH", "AH", "L", "L", "OW", "OW", "OW", "OW"]
    assert set(phones[12:15]) == {"SIL"}
    assert phones[15:20] == ["Y", "Y", "UW", "UW", "UW"]
    assert aligned == sorted(aligned)


def test_letters_share_out_the_time_of_their_word() -> None:
    spoken = write_spoken(HELLO.text, TOKENIZER, {0, 1})
    aligned = align_text(spoken, HELLO, 24)
    assert TOKENIZER.decode(spoken.token) == "hello, you."
    assert aligned == sorted(aligned)
    assert set(aligned[2:12]) <= set(range(5))
    assert aligned[11] >= 3


def test_the_alignment_loss_is_zero_for_an_attention_that_looks_right() -> None:
    # sos | 3 text | task | 4 speech; speech tokens 0..3 are spoken from text 0, 1, 1, 2
    text_index = torch.tensor([[-1, 0, 1, 2, -1, -1, -1, -1, -1]])
    speech_index = torch.tensor([[-1, -1, -1, -1, -1, 0, 1, 2, 3]])
    aligned, code_len = torch.tensor([[0, 1, 1, 2]]), torch.tensor([4])
    attention = torch.zeros(1, 9, 9)
    for position, column in ((5, 2), (6, 2), (7, 3)):  # the token to come is spoken from text 1, 1, 2
        attention[0, position, column] = 1.0
    assert float(alignment_loss(attention, text_index, speech_index, aligned, code_len)) < 1e-6
    wrong = attention.roll(1, dims=2)
    assert float(alignment_loss(wrong, text_index, speech_index, aligned, code_len)) > 10


def test_single_sentences_and_pairs_can_be_learnt() -> None:
    torch.manual_seed(0)
    lm = SpeechLM(CONFIG)
    code = torch.randint(27, (24,))
    examples = [make_example(HELLO, code, TOKENIZER, seed) for seed in range(4)]
    loss_function = LMLossFunction(lm, examples, TOKENIZER, tokens_per_batch=120)
    optimizer = torch.optim.Adam(lm.parameters(), 1e-2)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss, figures = loss_function(step, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        losses.append(figures["lm"])
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
