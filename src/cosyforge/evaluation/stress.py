"""Sentences of 2 to 40 words that nobody wrote down before, to see whether a model loses its way in short or long ones.

They are put together of clauses by chance, the same ones for the same seed. The clauses are not those that the built-in
model's corpus is made of (`dataset/sentences.py`), so no whole sentence can have been in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

SHORTEST, LONGEST = 2, 40
"""Words; of Mandarin twice as many hanzi."""

_ENGLISH = {
    "who": "my aunt|the pilot|a tall stranger|your cousin|the plumber|an elderly couple|the new student|our landlord|"
    "the waiter|a quiet neighbor|the mayor|her grandmother|the twins|a bus driver|the electrician|my colleague",
    "did": "repaired|delivered|borrowed|noticed|described|hid|ordered|mended|measured|collected|returned|unpacked|"
    "photographed|recognized|ignored|wrapped",
    "what": "a leather suitcase|the crooked lamp|seven postcards|the rusty bicycle|a jar of honey|the spare tire|"
    "her silver necklace|a basket of plums|the empty envelope|two concert tickets|the wool blanket|a ladder",
    "where": "beside the fountain|in the basement|at the airport|behind the bakery|along the canal|on the upper deck|"
    "near the lighthouse|under the stairs|at the crossroads|inside the tent",
    "when": "last Thursday|shortly after midnight|during the festival|before the snow melted|around noon|"
    "while the band was playing|a month ago|early on Sunday|after the second rehearsal|throughout the autumn",
    "is": "surprisingly cheap|rather noisy|almost finished|much too narrow|perfectly safe|quite famous|still damp|"
    "hardly visible",
    "thing": "the staircase|this medicine|the harbor|their balcony|the recipe|that tunnel|the ceiling|the second chapter",
    "do": "repair|deliver|borrow|describe|order|mend|measure|collect|return|unpack|ignore|wrap",
    "it": "it|them|this|everything|those",
    "soon": "soon|carefully|again|together|outside|properly|tonight",
}  # fmt: skip
_ENGLISH_CLAUSES = (
    "{who} {did} {what}|{who} {did} {what} {where}|{who} {did} {what} {when}|{who} {did} {what} {where} {when}|"
    "{thing} is {is}|{thing} near {who} was {is}|{when} {who} {did} {what}"
).split("|")
_ENGLISH_SHORT = (
    "sit down|not yet|{do} {it}|{do} {it}|who said so|{do} {it} {soon}|{do} {it} {soon}|please {do} {it} {soon}|"
    "never {do} {it} {soon}|keep your voice down"
).split("|")
_ENGLISH_JOINS = (", and |, but |, because | although |, so | while |; later ").split("|")

_MANDARIN = {
    "who": "我的同事|那位工程师|小区的保安|表妹|年轻的护士|楼上的邻居|出租车司机|一对老夫妻|新来的同学|他的外公",
    "did": "修好了|寄出了|借走了|发现了|描述了|藏起了|订购了|收集了|归还了|拍下了",
    "what": "一只皮箱|七张明信片|生锈的自行车|一罐蜂蜜|两张音乐会门票|羊毛毯子|一篮子李子|空信封|那盏歪了的台灯",
    "where": "在喷泉旁边|在地下室里|在机场|在面包店后面|沿着运河|在灯塔附近|在楼梯下面|在十字路口",
    "when": "上个星期四|半夜的时候|节日期间|雪化以前|中午前后|一个月前|星期天一大早|整个秋天",
    "is": "便宜得出奇|相当吵|差不多完工了|实在太窄|非常安全|还是潮湿的|几乎看不见",
    "thing": "这段楼梯|这种药|那个港口|他们的阳台|这份菜谱|那条隧道|第二章",
    "do": "修理|描述|订购|收集|归还|整理|打扫|测量|检查|通知",
    "it": "它|他们|全部|这些",
    "soon": "请马上|别再|一起|请小心地|明天再",
}  # fmt: skip
_MANDARIN_CLAUSES = "{who}{when}{did}{what}|{when}{who}{where}{did}{what}|{thing}{is}|{who}{where}{did}{what}".split(
    "|"
)
_MANDARIN_SHORT = "快点过来|还没有呢|{do}{it}|{do}{it}|{soon}{do}{it}|{soon}{do}{it}|声音小一点".split("|")
_MANDARIN_JOINS = "，而且|，但是|，因为|，所以|，后来|，同时".split("|")

_SHORT = 4
"""Words (hanzi) up to which a sentence is a short one, no clause with a subject."""

_ATTEMPTS = 20_000


def stress_sentences(count: int, language: str = "en", seed: int = 0) -> list[str]:
    """Make distinct sentences whose lengths go evenly from 2 to 40 words (Mandarin: 2 to 80 hanzi).

    Raises: ValueError for a language without clauses, or when so many distinct ones cannot be made
    """
    if language not in ("en", "zh"):
        raise ValueError(f"there are no clauses in {language!r}; there are some in en and zh")
    rng = random.Random(f"{language} {seed}")
    make, factor = (_english, 1) if language == "en" else (_mandarin, 2)
    sentences: dict[str, None] = {}
    for index in range(count):
        share = index / max(1, count - 1)
        wanted = factor * round(SHORTEST + share * (LONGEST - SHORTEST))
        sentences[next(each for each in _of_length(wanted, make, rng) if each not in sentences)] = None
    return list(sentences)


def num_words(text: str) -> int:
    """Words of an English sentence, hanzi of a Mandarin one."""
    hanzi = re.findall(r"[\u4e00-\u9fff]", text)
    return len(hanzi) or len(text.split())


def _of_length(wanted: int, make: Callable[[random.Random, int], str], rng: random.Random) -> Iterator[str]:
    """Draw until the length is right, and allow a little more when luck is out."""
    for attempt in range(_ATTEMPTS):
        sentence = make(rng, wanted)
        if abs(num_words(sentence) - wanted) <= attempt // 200:
            yield sentence
    raise ValueError(f"no further sentence of about {wanted} words can be made of the clauses; ask for fewer")


def _english(rng: random.Random, wanted: int) -> str:
    text = _joined(rng, wanted, _ENGLISH_CLAUSES, _ENGLISH, _ENGLISH_SHORT, _ENGLISH_JOINS)
    return f"{text[0].upper()}{text[1:]}."


def _mandarin(rng: random.Random, wanted: int) -> str:
    return _joined(rng, wanted, _MANDARIN_CLAUSES, _MANDARIN, _MANDARIN_SHORT, _MANDARIN_JOINS) + "。"


def _joined(
    rng: random.Random, wanted: int, clauses: list[str], parts: dict[str, str], short: list[str], joins: list[str]
) -> str:
    text = ""
    while num_words(text) < wanted:
        template = rng.choice(short if wanted <= _SHORT else clauses)
        clause = template.format(**{name: rng.choice(words.split("|")) for name, words in parts.items()})
        text = f"{text}{rng.choice(joins)}{clause}" if text else clause
    return text
