"""Text to text tokens: the byte-level BPE of Qwen2 with the tokens that CosyVoice 3 adds to it.

Added tokens (`[breath]`, `<|endofprompt|>`, phones such as `[AH0]` or `[ǐ]`) match wherever they stand in the text,
letter for letter. Nothing is put before or after a text. What should be said, and how, is decided in the front end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

END_OF_PROMPT = "<|endofprompt|>"

BASE_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

EVENTS = (
    END_OF_PROMPT, "[breath]", "<strong>", "</strong>", "[noise]", "[laughter]", "[cough]", "[clucking]", "[accent]",
    "[quick_breath]", "<laughter>", "</laughter>", "[hissing]", "[sigh]", "[vocalized-noise]", "[lipsmack]", "[mn]",
    "<|endofsystem|>",
)  # fmt: skip

_ARPABET_LINES = """
    AA AA0 AA1 AA2 AE AE0 AE1 AE2 AH AH0 AH1 AH2 AO AO0 AO1 AO2 AW AW0 AW1 AW2 AY AY0 AY1 AY2 B CH D DH
    EH EH0 EH1 EH2 ER ER0 ER1 ER2 EY EY0 EY1 EY2 F G HH IH IH0 IH1 IH2 IY IY0 IY1 IY2 JH K L M N NG
    OW OW0 OW1 OW2 OY OY0 OY1 OY2 P R S SH T TH UH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH
"""
_PINYIN_LINES = """
    a ai an ang ao b c ch d e ei en eng f g h i ian in ing iu ià iàn iàng iào iá ián iáng iáo iè ié iòng ióng iù iú
    iā iān iāng iāo iē iě iōng iū iǎ iǎn iǎng iǎo iǒng iǔ j k l m n o ong ou p q r s sh t u uang ue un uo
    uà uài uàn uàng uá uái uán uáng uè ué uì uí uò uó uā uāi uān uāng uē uě uī uō uǎ uǎi uǎn uǎng uǐ uǒ vè w x y z zh
    à ài àn àng ào á ái án áng áo è èi èn èng èr é éi én éng ér ì ìn ìng í ín íng ò òng òu ó óng óu ù ùn ú ún
    ā āi ān āng āo ē ēi ēn ēng ě ěi ěn ěng ěr ī īn īng ō ōng ōu ū ūn ǎ ǎi ǎn ǎng ǎo ǐ ǐn ǐng ǒ ǒng ǒu ǔ ǔn ǘ ǚ ǜ
"""

ARPABET = tuple(_ARPABET_LINES.split())
PINYIN = tuple(_PINYIN_LINES.split())

ADDED_TOKENS = (*EVENTS, *(f"[{phone}]" for phone in ARPABET + PINYIN))
"""In the order of their ids. Source: FunAudioLLM/CosyVoice, tokenizer of CosyVoice 3"""

# Source: Qwen2 tokenizer; words, single digits, runs of signs, white space
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TextTokenizer:
    """Text to ids and back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises: ValueError when the vocabulary has no end-of-prompt token"""
        end_of_prompt = tokenizer.token_to_id(END_OF_PROMPT)
        if end_of_prompt is None:
            raise ValueError(f"the text tokenizer has no {END_OF_PROMPT} token; it is not one of CosyVoice 3")
        self.endofprompt_id: int = end_of_prompt
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Read what `save` wrote."""
        return cls(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))

    @classmethod
    def from_qwen2_directory(cls, directory: Path | str) -> Self:
        """Build the tokenizer from a Qwen2 directory, as the official release carries it without the added tokens.

        Reads vocab.json, merges.txt and, where there is one, tokenizer_config.json for the ids of the base specials.
        Raises: ValueError when a file is missing, or a special token would not get the id the directory states
        """
        directory = Path(directory)
        missing = [name for name in ("vocab.json", "merges.txt") if not (directory / name).is_file()]
        if missing:
            raise ValueError(f"{directory}: {', '.join(missing)} missing; a Qwen2 tokenizer directory has both")
        vocab, merges = models.BPE.read_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
        base = _base_specials(directory / "tokenizer_config.json", len(vocab))
        tokenizer = _build(vocab, merges, base.values())
        for token_id, token in base.items():
            if tokenizer.token_to_id(token) != token_id:
                raise ValueError(
                    f"{directory / 'tokenizer_config.json'}: {token} is said to be {token_id}, but follows the "
                    f"vocabulary as {tokenizer.token_to_id(token)}; the files do not belong together"
                )
        return cls(tokenizer)

    @classmethod
    def byte_level(cls) -> Self:
        """The tokenizer of the nano model: every byte of the text is its own token, its id the byte's value."""
        return cls(_build({symbol: byte for byte, symbol in enumerate(byte_symbols())}, [], BASE_SPECIALS))

    @property
    def vocab_size(self) -> int:
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `encode(text)` stands in the text, as character positions; end exclusive."""
        offsets: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def token_id(self, token: str) -> int | None:
        """The id of one token as it stands in the vocabulary, None when it is not there."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def save(self, path: Path | str) -> None:
        self._tokenizer.save(str(path))


def _build(vocab: dict[str, int], merges: list[tuple[str, str]], base_specials: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [*base_specials, *ADDED_TOKENS]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


def _base_specials(config_path: Path, first_id: int) -> dict[int, str]:
    """The special tokens of the base tokenizer by id, in order."""
    if not config_path.is_file():
        return dict(enumerate(BASE_SPECIALS, start=first_id))
    stated = json.loads(config_path.read_text(encoding="utf-8")).get("added_tokens_decoder")
    if not stated:
        return dict(enumerate(BASE_SPECIALS, start=first_id))
    return dict(sorted((int(token_id), token["content"]) for token_id, token in stated.items()))


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary. Source: GPT-2"""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    replaced = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + replaced.index(byte)) for byte in range(256)]
