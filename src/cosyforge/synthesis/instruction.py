"""A free instruction, in English or Mandarin, to what a small model can truthfully do.

    "Please speak slowly, in a cheerful, high voice" -> words slow, lively; pitch 1.2

Such a model was taught a few words (`frontend.instructions`) that stand before its text; a higher or lower, a louder or
quieter voice is what the output makes of any speech. Everything else is named, so that nobody thinks it was followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HIGHER, LOWER = 1.2, 0.84
"""Three semitones: plainly another height, still the same person."""

LIVELIER, CALMER = 3.0, 0.5
"""Of the pitch's movement. The codes tell melody relative to the speaker's own, so the taught word alone cannot change it;
twice as much is no more than the built-in voices do anyway."""

LOUDER, QUIETER = 1.6, 0.5
"""4 dB up, where peaks begin to bend, and 6 dB down."""

_OPPOSITES = (("slow", "fast"), ("lively", "calm"), ("high", "low"), ("loud", "quiet"))
_ONLY_LOUDNESS = {"whisper": "quiet", "shout": "loud"}
"""Ways to speak of which the loudness alone can be had."""

# the narrower forms first: a low volume is no low voice, 快乐 (happy) is not 快 (fast)
_CUES = (
    ("plain", r"normal(?:ly)?|neutral(?:ly)?|natural(?:ly)?|moderate(?:ly)?", "正常|自然|适中|中等|中性|不紧不慢"),
    (
        "quiet",
        r"low(?:er)? volume|(?:lower|drop) (?:your|the) voice",
        "音量(?:小|低)|[压放]低(?:你的|一?[点些])?声音|声音[压放]低",
    ),
    ("loud", r"high(?:er)? volume|raise (?:your|the) voice|speak up", "音量(?:大|高)|(?:提高|放开)(?:音量|嗓门)"),
    ("slow", r"low(?:er)? (?:speed|pace|rate|tempo)|tak(?:e|ing) (?:your|its) time", "语速低|降低语速"),
    ("fast", r"high(?:er)? (?:speed|pace|rate|tempo)|speed(?:ing)? up", "语速高|提高语速"),
    ("lively", r"high(?:er)? energy|full of (?:energy|life|joy)", "快乐|愉快|欢快|轻快|高兴|兴高采烈"),
    ("calm", r"low(?:er)? energy|even(?:ly)?[- ]toned?", "不慌不忙|心平气和"),
    ("whisper", r"whisper(?:s|ed|ing)?|under your breath", "耳语|悄悄话?|窃窃私语"),
    ("shout", r"shout(?:s|ed|ing)?|yell(?:s|ed|ing)?|scream(?:s|ed|ing)?", "喊|吼|呐喊|大叫"),
    ("slow", r"slow(?:ly|er|ed)?|unhurried(?:ly)?|leisurely", "缓慢|慢慢|(?<![傲怠])慢"),
    (
        "fast",
        r"fast(?:er)?|quick(?:ly|er)?|rapid(?:ly)?|brisk(?:ly)?|hurr(?:y|ied|iedly)|rush(?:ed|ing)?|speed(?:y|ily)",
        "迅速|快速|快快|快|急促|(?<!着)急",
    ),
    (
        "lively",
        r"livel(?:y|ier)|cheer(?:y|ily|ful|fully)|happ(?:y|ily|ier)|joy(?:ful|fully|ous|ously)|excited(?:ly)?|upbeat|joy|happiness|excitement|"
        r"enthusias(?:m|tic|tically)|energetic(?:ally)?|animated(?:ly)?|vivid(?:ly)?|playful(?:ly)?|expressive(?:ly)?|"
        r"bright(?:ly)?|delighted(?:ly)?|merr(?:y|ily)",
        "开心|欢乐|喜悦|喜气洋洋|兴奋|激动|活泼|热情|生动|活力|有精神|明快",
    ),
    (
        "calm",
        r"calm(?:ly|er)?|relax(?:ed|ing)?|peaceful(?:ly)?|sooth(?:ing|ingly)|seren(?:e|ely)|tranquil(?:ly)?|"
        r"composed|gent(?:le|ly|ler)|monoton(?:e|ous|ously)|evenly|steady|steadily",
        "平静|冷静|沉稳|平和|舒缓|温柔|柔和|淡定|平稳|从容|镇定|放松|沉着|平淡",
    ),
    ("quiet", r"quiet(?:ly|er)?|soft(?:ly|er)?|hushed", "小声|小点声|轻声|低声|轻轻|安静|声音(?:再)?小"),
    ("loud", r"loud(?:ly|er)?", "大声|大点声|高声|响亮|洪亮|声音(?:再)?大"),
    ("high", r"high(?:er)?(?![- ]quality)(?:[- ]pitch(?:ed)?)?|shrill", "高音|高亢|尖细|尖声|尖|高(?![质清品级])"),
    ("low", r"low(?:er)?(?:[- ]pitch(?:ed)?)?|deep(?:er)?|bass", "低沉|低音|深沉|浑厚|低"),
)
_CUE = re.compile(
    "|".join(
        rf"(?P<c{index}>(?<![a-z])(?:{english})(?![a-z])|{mandarin})"
        for index, (_, english, mandarin) in enumerate(_CUES)
    )
)

_CLAUSE_END = re.compile(
    r"[,.;:!?()\n，。；：、！？（）]+|(?<![a-z])(?:and|but|then|while|yet)(?![a-z])|但是?|而是|而且|并且?|同时|然后|[又且]"
)
_NEGATION = re.compile(
    r"(?<![a-z])(?:not(?! only)|never|no|nor|neither|without|less|too|avoid|rather than|instead of|stop|[a-z]+n't)(?![a-z])"
    r"[^不]*$|(?:(?<![特区分性])别|不(?![过错仅但断])|勿|莫|无需|没|太|过于)[^不别]{0,6}$"
)
"""Before a cue of the same clause. "Too fast" and 太快了 complain of it."""

_FILLERS = frozenset(
    """
    a about aloud also always am an are as at be being bit can could do does down for even first from give go i in into is it its
    just kind let like little loudness make manner me mood more my need now of on only or out pace person pitch pitched please
    pretty quite rate rather read reading really say should sentence slightly so some sound sounding sounds speak
    speaking speech speed spoken style talk talking tempo text that the this to tone try us use using utter very
    voice volume want was way we when will with would you your emotion feeling feelings up
    """.split()
)
_MANDARIN_FILLER = re.compile(
    "|".join(
        sorted(
            """
            请 用 以 的 地 得 着 一点儿 一点 一些 一下 点儿 点 些 说话 讲话 说出来 说 讲 读出来 读 念
            朗读 声音 嗓音 嗓子 语气 语调 音调 音高 声调 语速 速度 口吻 口气 情感 感情 情绪 心情 风格 方式
            是 你 您 我 我们 大家 来 非常 很 十分 特别 比较 稍微 稍 略 更加 更 再 尽量 尽可能 吧 啊 呢
            哦 要 把 这段话 这句话 这 那 段 句 文字 文本 内容 和 与 一个 一种 种 个 进行 状态 充满 有
            带 一样 些许 可以 希望 想 让 听起来 听上去 保持 变 放 加 调 降 升 提 开 先 后 那么 这么 了
            里 中 上 下 太 给
            """.split(),
            key=len,
            reverse=True,
        )
    )
)
_NEGATION_WORDS = re.compile("不要|(?<![特区分性])别|不用|不|勿|莫|无需|没|过于")
_POLITE_QUESTION = re.compile(r"(?<![a-z])(?:why )?[a-z]+n't you(?![a-z])|能不能|可不可以|好不好|行不行", re.IGNORECASE)
"""These have a negation in them and negate nothing."""

_WORD = re.compile(r"[a-z']+|[\u3400-\u9fff]+|\w+")


@dataclass(frozen=True)
class Instruction:
    """words: those that the model was taught, in the order in which it was; not_followed: what could not be done.

    Units: pitch, volume and melody_range are factors
    """

    words: tuple[str, ...] = ()
    pitch: float = 1.0
    volume: float = 1.0
    melody_range: float = 1.0
    not_followed: tuple[str, ...] = ()


def read_instruction(instruction: str, taught: Sequence[str]) -> Instruction:
    """Find what an instruction asks for.

    What it asks not to be is left as it is: "not too fast" is the model's own pace. Opposites at once are not followed,
    for one request is spoken in one manner.
    """
    text = re.sub(r"\s+", " ", instruction).replace("’", "'")
    text = _POLITE_QUESTION.sub(" ", text)
    asked: dict[str, None] = {}
    not_followed: dict[str, None] = {}
    for clause in _clauses(text):
        cues, rest = _cues_of(clause)
        for kind, written in cues:
            asked[_ONLY_LOUDNESS.get(kind, kind)] = None
            if kind in _ONLY_LOUDNESS or (kind in {"slow", "fast", "lively", "calm"} and kind not in taught):
                not_followed[written] = None
        if rest:
            not_followed[rest if cues else clause.strip()] = None
    for first, second in _OPPOSITES:
        if first in asked and second in asked:
            del asked[first], asked[second]
            not_followed[f"{first} and {second} at once"] = None
    words = tuple(word for word in taught if word in asked)
    return Instruction(
        words=words,
        pitch=HIGHER if "high" in asked else LOWER if "low" in asked else 1.0,
        volume=LOUDER if "loud" in asked else QUIETER if "quiet" in asked else 1.0,
        melody_range=LIVELIER if "lively" in words else CALMER if "calm" in words else 1.0,
        not_followed=tuple(not_followed),
    )


def _clauses(text: str) -> Iterator[str]:
    """The parts of a sentence in which one negation counts."""
    place = 0
    for end in _CLAUSE_END.finditer(_lowered(text)):
        yield text[place : end.start()]
        place = end.end()
    yield text[place:]


def _cues_of(clause: str) -> tuple[list[tuple[str, str]], str]:
    """What a clause asks for, as (kind, as it is written), and the words of it that say something else."""
    cues, rest, place = [], "", 0
    lowered = _lowered(clause)
    for cue in _CUE.finditer(lowered):
        kind = _CUES[int((cue.lastgroup or "")[1:])][0]
        if not _NEGATION.search(lowered, 0, cue.start()):
            cues.append((kind, clause[cue.start() : cue.end()]))
        rest += lowered[place : cue.start()] + " "
        place = cue.end()
    return cues, " ".join(_meaning(rest + lowered[place:]))


def _lowered(text: str) -> str:
    """Small Latin letters, with every character in its place."""
    return re.sub("[A-Z]", lambda capital: capital[0].lower(), text)


def _meaning(text: str) -> Iterator[str]:
    """The words that are more than grammar and talk of voices."""
    for word in _WORD.findall(_NEGATION.sub("", text)):
        if word[0] >= "\u3400":
            left = _MANDARIN_FILLER.sub("", _NEGATION_WORDS.sub("", word))
            if left:
                yield left
        elif word not in _FILLERS:
            yield word
