"""Teach the speech LM to read: text tokens in, the tokenizer's codes out, with one head shown where in the text it is.

The synthesizer's phone times say which text token is being spoken at every speech token. Supervising one attention head with that takes
the word error from .60 to .25 in the same time. English words are mostly phones, sometimes letters, so both can be read and mixed;
Mandarin is initials and finals. How a clip is spoken (slow, lively) stands before the end-of-prompt mark.
"""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cosyforge.cosyvoice.config import NANO
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.manifest import FrontendEntry
from cosyforge.cosyvoice.text_tokenizer import END_OF_PROMPT, TextTokenizer
from cosyforge.dataset.synthetic import INSTRUCTIONS, Clip, split_syllable
from cosyforge.text.frontend import Frontend
from cosyforge.text.lexicon import english_phones
from cosyforge.text.mandarin import mandarin_tokens, pinyin_syllables
from cosyforge.text.pronunciation import phone_tokens
from cosyforge.training.batches import mixed_precision, padded, padded_rows
from cosyforge.training.pretrain.sampler import LengthSampler
from cosyforge.training.pretrain.unlabelled import unaligned_writings

FRONTEND = FrontendEntry(
    languages=("en", "zh"),
    english="phones",
    mandarin="pinyin",
    prefix=END_OF_PROMPT,
    instructions=INSTRUCTIONS,
    # the corpus' sentences have at most sixteen words: from longer ones the model leaves words out
    max_characters=64,
)
"""How text is written for this LM; goes into the model's manifest."""

ALIGNMENT_HEAD = NANO.lm.alignment_head
"""(layer, head) that is taught to look at the text token being spoken next."""
_ALIGNMENT_WEIGHT = 0.3
_SPEECH_TOKEN_S = 0.04
_PAIR_SHARE = 0.35
_SPELLED_SHARE = 0.12
_BISTREAM_SHARE = 0.25
_MARKS = {"，": ",", "。": ".", "？": "?", "！": "!", "；": ";"}
_VOWELS = frozenset("AEIOUaeiouü")
_ESPEAK_ENGLISH_SHARE = 4
"""One in so many plain English clips by espeak-ng is read: the melody of the sampled voices is the better teacher."""


@dataclass(frozen=True)
class SpokenText:
    """One sentence as text tokens, each with the phone it stands for.

    token: ids; phone: per id the ARPAbet phone or pinyin unit, "SIL" for blanks and punctuation, "" for a letter (its word's phones are
    shared out); word: per id the index of its word, -1 between words
    """

    token: list[int]
    phone: list[str]
    word: list[int]
    word_phones: list[list[str]]


def write_mandarin(text: str, tokenizer: TextTokenizer) -> SpokenText:
    """A Mandarin sentence in the front end's form: initials and finals without blanks, plain marks, a blank after each."""
    token: list[int] = []
    phone: list[str] = []
    word: list[int] = []
    count = 0
    for match in re.finditer(r"[\u4e00-\u9fff]+|[，。？！；]", text):
        piece = match[0]
        if piece in _MARKS:
            ids = tokenizer.encode(_MARKS[piece])
            token, phone, word = token + ids, phone + ["SIL"] * len(ids), word + [-1] * len(ids)
            continue
        if token:
            ids = tokenizer.encode(" ")
            token, phone, word = token + ids, phone + ["SIL"] * len(ids), word + [-1] * len(ids)
        for syllable in pinyin_syllables(piece):
            names = mandarin_tokens(syllable)
            ids = tokenizer.encode(phone_tokens(names))
            initial, final = split_syllable(syllable)
            units = [initial, final] if len(names) > 1 else [final]
            token, word = token + ids, word + [count] * len(ids)
            phone += (units + [final] * len(ids))[: len(ids)]
            count += 1
    return SpokenText(token, phone, word, [[] for _ in range(count)])


def write_spoken(text: str, tokenizer: TextTokenizer, spelled: set[int]) -> SpokenText:
    """A sentence in the front end's form: phones joined inside a word, single blanks, punctuation after the word.

    spelled: indexes of the words that are written in letters. Words the lexicon lacks are always written in letters.
    """
    token: list[int] = []
    phone: list[str] = []
    word: list[int] = []
    word_phones: list[list[str]] = []
    for match in re.finditer(r"[A-Za-z']+|[,.?!;]", text):
        piece = match[0]
        if not piece[0].isalpha() and piece[0] != "'":
            ids = tokenizer.encode(piece)
            token, phone, word = token + ids, phone + ["SIL"] * len(ids), word + [-1] * len(ids)
            continue
        if token:
            ids = tokenizer.encode(" ")
            token, phone, word = token + ids, phone + ["SIL"] * len(ids), word + [-1] * len(ids)
        index = len(word_phones)
        phones = english_phones(piece) or []
        as_letters = index in spelled or not phones
        ids = tokenizer.encode(piece.lower() if as_letters else phone_tokens(phones))
        token, word = token + ids, word + [index] * len(ids)
        phone += [""] * len(ids) if as_letters else phones
        word_phones.append(phones)
    return SpokenText(token, phone, word, word_phones)


def align_text(spoken: SpokenText, clip: Clip, num_speech_tokens: int) -> list[int]:
    """For every speech token, the index of the text token being spoken: the engine's phones matched to the written ones.

    Edit distance between what the engine said and what the dictionary says; engine silences go to blanks and punctuation.
    """
    written, positions = _written_phones(spoken)
    sounds = _merged(clip.units or clip.phones)
    match = _edit_alignment([name for name, _ in sounds], written)
    ends = [end for _, end in sounds]
    result, index = [], 0
    for token in range(num_speech_tokens):
        middle = (token + 0.5) * _SPEECH_TOKEN_S
        while index < len(ends) - 1 and ends[index] <= middle:
            index += 1
        result.append(positions[match[index]])
    return result


def _merged(sounds: tuple[tuple[str, float], ...]) -> list[tuple[str, float]]:
    """The same unit twice in a row is one: an engine names a final in pieces."""
    return [
        sound
        for sound, following in zip(sounds, (*sounds[1:], ("", 0.0)), strict=True)
        if sound[0] != following[0] or sound[0].isupper()
    ]


def _written_phones(spoken: SpokenText) -> tuple[list[str], list[int]]:
    """The phones that the text stands for, in order, and the text token of each; letters share their word's phones out."""
    written: list[str] = []
    positions: list[int] = []
    index = 0
    while index < len(spoken.token):
        word = spoken.word[index]
        if spoken.phone[index] or word < 0:
            written.append(spoken.phone[index])
            positions.append(index)
            index += 1
            continue
        count = sum(1 for w in spoken.word if w == word)
        phones = spoken.word_phones[word] or ["?"] * count
        written += phones
        positions += [index + min(count - 1, i * count // len(phones)) for i in range(len(phones))]
        index += count
    return written, positions


def _edit_alignment(said: list[str], written: list[str]) -> list[int]:
    """For each said phone the index of a written one: monotonic, cheapest; near kinds cost less than strangers."""
    rows, columns = len(said), len(written)
    cost = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    move = [[0] * (columns + 1) for _ in range(rows + 1)]
    for j in range(1, columns + 1):
        cost[0][j], move[0][j] = cost[0][j - 1] + _skip_cost(written[j - 1]), 2
    for i in range(1, rows + 1):
        cost[i][0], move[i][0] = cost[i - 1][0] + 1.0, 1
        for j in range(1, columns + 1):
            options = (
                cost[i - 1][j - 1] + _change_cost(said[i - 1], written[j - 1]),
                cost[i - 1][j] + 1.0,
                cost[i][j - 1] + _skip_cost(written[j - 1]),
            )
            best = min(range(3), key=options.__getitem__)
            cost[i][j], move[i][j] = options[best], best
    result = [0] * rows
    i, j = rows, columns
    while i > 0:
        step = move[i][j]
        if step == 2:
            j -= 1
            continue
        # a phone that the dictionary lacks belongs to its left neighbour
        result[i - 1] = max(0, j - 1)
        i -= 1
        j -= step == 0
    return result


def _skip_cost(written: str) -> float:
    return 0.05 if written == "SIL" else 1.0


def _change_cost(said: str, written: str) -> float:
    if said == written:
        return 0.0
    if "SIL" in (said, written):
        return 2.5
    return 0.6 if (said[0] in _VOWELS) == (written[0] in _VOWELS) else 1.4


@dataclass(frozen=True)
class LMExample:
    """A clip for the LM: its codes, its text in two writings (all phones; some words in letters) with their alignments."""

    speaker: str
    code: Tensor
    writings: tuple[tuple[Tensor, Tensor], ...]
    """(text token (T,), aligned text index per speech token (S,), -1 where unknown) of each writing."""
    instruction: str = ""


def make_example(clip: Clip, code: Tensor, tokenizer: TextTokenizer, seed: int) -> LMExample:
    """Write and align a clip. Shapes: code (S,)."""
    if clip.language == "zh":
        spoken = write_mandarin(clip.text, tokenizer)
        writing = torch.tensor(spoken.token), torch.tensor(align_text(spoken, clip, len(code)))
        return LMExample(clip.speaker, code, (writing,), clip.instruction)
    generator = torch.Generator().manual_seed(seed)
    num_words = len(re.findall(r"[A-Za-z']+", clip.text))
    draw = torch.rand(num_words, generator=generator)
    share = 1.0 if seed % 4 == 0 else 0.4
    writings = []
    for spelled in (set(), {i for i in range(num_words) if draw[i] < share}):
        spoken = write_spoken(clip.text, tokenizer, spelled)
        aligned = align_text(spoken, clip, len(code))
        writings.append((torch.tensor(spoken.token), torch.tensor(aligned)))
    return LMExample(clip.speaker, code, tuple(writings), clip.instruction)


def load_or_make_examples(path: Path, clips: list[Clip], codes: list[Tensor], num_processes: int) -> list[LMExample]:
    """The clips as examples, written and aligned once and kept on disk; valid for the codes that they were made with.

    Recordings without phone times are written as the front end would, and not aligned.
    """
    read = [(index, clip) for index, clip in enumerate(clips) if _is_read(index, clip)]
    if not path.exists():
        with ProcessPoolExecutor(num_processes) as pool:
            work = [(clip, codes[index].tolist(), index) for index, clip in read]
            rows = list(pool.map(_make_row, work, chunksize=100))
        torch.save(rows, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    rows = torch.load(path, weights_only=True)
    return [
        LMExample(
            clip.speaker, codes[index], tuple((torch.tensor(t), torch.tensor(a)) for t, a in row), clip.instruction
        )
        for (index, clip), row in zip(read, rows, strict=True)
    ]


def _is_read(index: int, clip: Clip) -> bool:
    is_plain_espeak = (
        clip.speaker.startswith("espeak-") and bool(clip.phones) and clip.language == "en" and not clip.instruction
    )
    return not is_plain_espeak or index % _ESPEAK_ENGLISH_SHARE == 0


@cache
def _frontend() -> Frontend:
    return Frontend(asdict(FRONTEND))


def _make_row(work: tuple[Clip, list[int], int]) -> list[tuple[list[int], list[int]]]:
    clip, code, seed = work
    torch.set_num_threads(1)
    if not clip.phones:
        return unaligned_writings(clip.text, clip.language, len(code), TextTokenizer.byte_level(), _frontend(), seed)
    example = make_example(clip, torch.tensor(code), TextTokenizer.byte_level(), seed)
    return [(token.tolist(), aligned.tolist()) for token, aligned in example.writings]


class LMLossFunction:
    """Draws sentences or same-speaker pairs (so that a prompt before the text is nothing new) and scores them."""

    def __init__(
        self, lm: SpeechLM, examples: list[LMExample], tokenizer: TextTokenizer, tokens_per_batch: int
    ) -> None:
        self.lm, self.examples, self.tokenizer = lm, examples, tokenizer
        self.prefixes = {e.instruction: _prefix(e.instruction, tokenizer) for e in examples}
        lengths = [len(e.code) + len(e.writings[0][0]) for e in examples]
        self.sampler = LengthSampler(lengths, tokens_per_batch)
        self.by_speaker: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            if not example.instruction:
                self.by_speaker.setdefault(example.speaker, []).append(index)

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = self.sampler.draw(generator)
        if torch.rand(1, generator=generator).item() < _PAIR_SHARE:
            samples = [self._pair(i, generator) for i in chosen[: max(1, len(chosen) // 2)]]
        else:
            samples = [self._single(i, generator) for i in chosen]
        prefixes = [self.prefixes[self.examples[i].instruction] for i in chosen[: len(samples)]]
        return self.score(samples, prefixes, generator)

    def score(
        self, samples: list[tuple[Tensor, Tensor, Tensor]], prefixes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures of (text token, aligned text index, code) samples and what stands before each, (I,)."""
        device = self.lm.device
        texts, alignments, codes = zip(*samples, strict=True)
        (text, text_len), (code, code_len) = padded_rows(texts, device), padded_rows(codes, device)
        aligned = padded(alignments, device)
        bistream = self.lm.draw_bistream(text_len, code_len, probability=_BISTREAM_SHARE, generator=generator)
        instruct, instruct_len = padded_rows(prefixes, device)
        batch = self.lm.training_batch(text, text_len, code, code_len, instruct, instruct_len, bistream)
        with mixed_precision(device):
            result = self.lm.loss(batch, attention_head=ALIGNMENT_HEAD)
        assert result.attention is not None
        guide = alignment_loss(result.attention.float(), batch.text_index, batch.speech_index, aligned, code_len)
        loss = result.loss + _ALIGNMENT_WEIGHT * guide
        return loss, {"lm": result.loss, "accuracy": result.accuracy, "guide": guide}

    def _single(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        example = self.examples[index]
        kind = int(torch.rand(1, generator=generator).item() < 2 * _SPELLED_SHARE)
        token, aligned = example.writings[kind % len(example.writings)]
        return token, aligned, example.code

    def _pair(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        example = self.examples[index]
        others = self.by_speaker.get(example.speaker)
        if example.instruction or not others:
            return self._single(index, generator)
        other = others[int(torch.randint(len(others), (1,), generator=generator))]
        first, second = self._single(other, generator), self._single(index, generator)
        # as the engine lays out a prompt's transcript and the text: nothing between them
        token = torch.cat([first[0], second[0]])
        aligned = torch.cat([first[1], torch.where(second[1] >= 0, second[1] + len(first[0]), second[1])])
        return token, aligned, torch.cat([first[2], second[2]])


def _prefix(instruction: str, tokenizer: TextTokenizer) -> Tensor:
    return torch.tensor(tokenizer.encode(f"{instruction}{END_OF_PROMPT}"))


def alignment_loss(
    attention: Tensor, text_index: Tensor, speech_index: Tensor, aligned: Tensor, code_len: Tensor
) -> Tensor:
    """Cross-entropy of one head's attention against the text token spoken by the speech token about to be predicted.

    Where that text token is unknown or not yet visible (bistream), or nothing is predicted, nothing is asked.
    Shapes: attention (B, L, L), text_index and speech_index (B, L), aligned (B, S), code_len (B,) -> ()
    """
    num_positions = text_index.shape[1]
    upcoming = speech_index + 1
    wanted_text = aligned.gather(1, upcoming.clamp(0, aligned.shape[1] - 1))  # (B, L)
    asks = (speech_index >= 0) & (upcoming < code_len[:, None]) & (wanted_text >= 0)
    # where in the sequence each text token stands; one spare column takes what is no text
    spare = int(text_index.max()) + 1
    column = torch.full((text_index.shape[0], spare + 1), -1, device=text_index.device)
    source = torch.arange(num_positions, device=text_index.device).expand_as(text_index)
    column.scatter_(1, torch.where(text_index >= 0, text_index, torch.full_like(text_index, spare)), source)
    column[:, spare] = -1
    wanted = column.gather(1, wanted_text.clamp(0, spare))
    asks &= (wanted >= 0) & (wanted <= source)
    probability = attention.gather(2, wanted.clamp(min=0)[..., None])[..., 0]
    return -probability[asks].clamp(min=1e-6).log().sum() / asks.sum().clamp(min=1)
