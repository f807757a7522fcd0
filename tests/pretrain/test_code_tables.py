"""Tables of codes begin so that codes which share digits are alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cosyforge.cosyvoice.config import SpeechTokenizerConfig
from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.training.pretrain.code_tables import begin_by_digits


def levels_of(fsq_dim: int) -> torch.Tensor:
    tokenizer = SpeechTokenizer(SpeechTokenizerConfig(hidden_size=20, num_heads=1, num_layers=0, fsq_dim=fsq_dim))
    return tokenizer.levels_of(torch.arange(3**fsq_dim))


def test_codes_that_share_digits_begin_alike_and_marks_stay() -> None:
    table = torch.randn(3**5 + 7, 64, generator=torch.Generator().manual_seed(2))
    before = table.clone()

    begin_by_digits(table, levels_of(5), torch.Generator().manual_seed(3))

    assert torch.equal(table[3**5 :], before[3**5 :])
    assert abs(float(table[: 3**5].std() / before[: 3**5].std()) - 1) < 0.1
    # all digits at their highest: one step of one digit, and the opposite of every digit
    highest = 3**5 - 1
    near, opposite = highest - 3**2, 0
    assert float(F.cosine_similarity(table[highest], table[near], dim=0)) > 0.5
    assert float(F.cosine_similarity(table[highest], table[opposite], dim=0)) < -0.5


def test_the_same_seed_begins_the_same_table() -> None:
    tables = [torch.ones(27, 8) * 0.1 + torch.arange(27)[:, None] * 0.01 for _ in range(2)]
    for table in tables:
        begin_by_digits(table, levels_of(3), torch.Generator().manual_seed(5))
    assert torch.equal(*tables)
