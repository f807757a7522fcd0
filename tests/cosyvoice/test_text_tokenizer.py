"""Text tokens: ids of the added tokens, exact round trips, and directories that do not fit."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from cosyforge.cosyvoice.config import NANO
from cosyforge.cosyvoice.text_tokenizer import ADDED_TOKENS, ARPABET, PINYIN, TextTokenizer, byte_symbols

NUM_QWEN2_WORDS = 151643


@pytest.fixture(scope="module")
def nano() -> TextTokenizer:
    return TextTokenizer.byte_level()


def write_qwen2_directory(
    directory: Path, words: list[str], merges: list[str], specials: dict[str, str] | None = None
) -> Path:
    (directory / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    if specials is not None:
        stated = {token_id: {"content": token, "special": True} for token_id, token in specials.items()}
        (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": stated}))
    return directory


def test_every_added_token_has_the_id_of_the_release(tmp_path: Path) -> None:
    words = byte_symbols()
    words += [f"unused{index}" for index in range(NUM_QWEN2_WORDS - len(words))]
    stated = {"151643": "<|endoftext|>", "151644": "<|im_start|>", "151645": "<|im_end|>"}
    tokenizer = TextTokenizer.from_qwen2_directory(write_qwen2_directory(tmp_path, words, [], stated))
    ids = {
        "<|endoftext|>": 151643, "<|im_end|>": 151645, "<|endofprompt|>": 151646, "[breath]": 151647,
        "<strong>": 151648, "</strong>": 151649, "[noise]": 151650, "[laughter]": 151651, "[cough]": 151652,
        "[clucking]": 151653, "[accent]": 151654, "[quick_breath]": 151655, "<laughter>": 151656,
        "</laughter>": 151657, "[hissing]": 151658, "[sigh]": 151659, "[vocalized-noise]": 151660,
        "[lipsmack]": 151661, "[mn]": 151662, "<|endofsystem|>": 151663, "[AA]": 151664, "[AA0]": 151665,
        "[ZH]": 151747, "[a]": 151748, "[ǜ]": 151923,
    }  # fmt: skip
    assert {token: tokenizer.token_id(token) for token in ids} == ids
    assert tokenizer.endofprompt_id == 151646
    assert tokenizer.vocab_size == 151924


def test_phones_are_complete_and_distinct() -> None:
    assert (len(ARPABET), len(PINYIN), len(ADDED_TOKENS)) == (84, 176, 278)
    assert len(set(ADDED_TOKENS)) == 278
    vowels = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
    assert {phone[:2] for phone in ARPABET if phone[-1].isdigit()} == set(vowels.split())
    assert all(f"{vowel}{stress}" in ARPABET for vowel in vowels.split() for stress in ("", "0", "1", "2"))
    assert list(PINYIN) == sorted(PINYIN)


def test_nano_ids_are_bytes_then_specials_and_fit_the_model(nano: TextTokenizer) -> None:
    assert nano.encode("A é") == list("A é".encode())
    assert [nano.token_id(token) for token in ("<|endoftext|>", "<|im_end|>", "<|endofprompt|>")] == [256, 258, 259]
    assert [nano.token_id(token) for token in ADDED_TOKENS] == list(range(259, 537))
    assert nano.vocab_size == 537 <= NANO.lm.text_vocab_size


def test_added_tokens_match_verbatim_anywhere_and_nothing_else_is_added(nano: TextTokenizer) -> None:
    ids = nano.encode("ab[breath]c<|endofprompt|>[AH0][j][ǐ] x")
    names = ("[breath]", "<|endofprompt|>", "[AH0]", "[j]", "[ǐ]")
    breath, end, ah, j, i = (nano.token_id(name) for name in names)
    assert ids == [*b"ab", breath, *b"c", end, ah, j, i, *b" x"]
    assert nano.encode("[Breath]") == list(b"[Breath]")
    assert nano.encode("") == []


def test_an_added_token_spelled_with_combining_marks_is_ordinary_text(nano: TextTokenizer) -> None:
    assert nano.encode(unicodedata.normalize("NFD", "[ǐ]")) == list("[ǐ]".encode())


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_decoding_gives_the_text_back(text: str) -> None:
    tokenizer = TextTokenizer.byte_level()
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_saved_tokenizer_is_the_same_when_read(nano: TextTokenizer, tmp_path: Path) -> None:
    nano.save(tmp_path / "tokenizer.json")
    read = TextTokenizer.from_file(tmp_path / "tokenizer.json")
    text = "Say [laughter] “ça” 42 times,\n  don't! 你好<|endofprompt|>"
    assert read.encode(text) == nano.encode(text)
    assert read.decode(read.encode(text)) == text
    assert (read.vocab_size, read.endofprompt_id) == (nano.vocab_size, nano.endofprompt_id)


def test_qwen2_merges_join_inside_words_only(tmp_path: Path) -> None:
    """Digits stand alone; contractions, a leading blank and the line end after a sign stay with theirs, as in Qwen2."""
    merges = ["h e", "Ġ he", "1 2", "' s", "e ,", "! Ċ"]
    joined = [merge.replace(" ", "") for merge in merges]
    directory = write_qwen2_directory(tmp_path, byte_symbols() + joined, merges)
    tokenizer = TextTokenizer.from_qwen2_directory(directory)
    id_of = {word: 256 + index for index, word in enumerate(joined)}
    assert tokenizer.encode("he he's") == [id_of["he"], id_of["Ġhe"], id_of["'s"]]
    assert tokenizer.encode("12") == list(b"12")
    assert tokenizer.encode("!\n") == [id_of["!Ċ"]]
    assert tokenizer.encode("he,") == [id_of["he"], ord(",")]
    assert tokenizer.token_id("<|endoftext|>") == 256 + len(merges)


def test_directory_without_merges_is_refused_by_name(tmp_path: Path) -> None:
    write_qwen2_directory(tmp_path, byte_symbols(), [])
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ValueError, match=r"merges\.txt missing"):
        TextTokenizer.from_qwen2_directory(tmp_path)


def test_config_that_states_other_ids_is_refused(tmp_path: Path) -> None:
    write_qwen2_directory(tmp_path, byte_symbols(), [], {"300": "<|endoftext|>"})
    with pytest.raises(ValueError, match="said to be 300, but follows the vocabulary as 256"):
        TextTokenizer.from_qwen2_directory(tmp_path)


def test_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="endofprompt"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")
