"""Sentences to synthesize for the built-in base model: everyday templates, and what the machine's own texts hold.

Knows words alone: which of them can be spoken is said by the caller's lexicon. No torch, no audio.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

FORTUNE_DIRECTORY = Path("/usr/share/games/fortunes")
"""Debian's `fortunes`: short human sayings, the most natural running text that every machine can install."""

_SUBJECTS = (
    "I|you|we|they|my mother|your father|the children|our neighbor|the teacher|a young man|the old woman|his sister|"
    "her brother|the doctor|the driver|that girl|the little boy|my best friend|the farmer|the captain|everybody|nobody|"
    "the students|two men|the whole family|the manager|our guests|the cook|the baby|the king|the people here"
).split("|")
_ADVERBS = (
    "always|never|often|sometimes|usually|really|quickly|slowly|quietly|finally|suddenly|almost|just|still|already|"
    "probably|certainly|carefully|happily"
).split("|")
_PAST = (
    "found|lost|bought|sold|opened|closed|watched|carried|cleaned|painted|broke|fixed|forgot|remembered|wanted|needed|"
    "liked|loved|moved|pushed|pulled|brought|took|left|used|made|saw|kept|dropped|washed|showed|counted|chose|caught"
).split("|")
_OBJECTS = (
    "the red book|a cup of coffee|the kitchen door|a glass of water|the blue car|an old photograph|the heavy box|"
    "a new pair of shoes|the front window|the garden gate|a loaf of bread|the yellow flowers|his favorite song|"
    "the last piece of cake|her winter coat|a bag of apples|the morning paper|the wooden table|a letter from home|"
    "the small dog|the television|their bicycle|some fresh fish|a bowl of soup|the keys to the house|the long rope|"
    "a bottle of milk|the broken chair|the telephone|an umbrella|the silver spoon|a map of the city|the white shirt|"
    "a hundred dollars|the green bottle|three large eggs|the church bell|a very good story|the whole truth|my watch|"
    "a box of matches|the picture on the wall|the bridge|a piece of paper|your hat|the fire|the orange juice"
).split("|")
_PLACES = (
    "in the garden|at the station|on the kitchen table|behind the house|near the river|under the bed|at school|"
    "in the middle of the street|by the window|across the road|on the roof|in the mountains|at the end of the road|"
    "next to the bank|in a small village|in front of the theater|over the bridge|between the trees|on the beach|"
    "at the office|in the dark|inside the old church|outside the shop|up the hill|down by the lake|around the corner"
).split("|")
_TIMES = (
    "yesterday|today|tomorrow morning|last night|every day|before breakfast|after lunch|in the evening|on Monday|"
    "on Saturday afternoon|two weeks ago|next year|in the summer|at noon|early in the morning|once a month|tonight|"
    "for a long time|at five o'clock|during the winter|when it was raining|all day long|for three hours|right now|"
    "this afternoon|in December|before the sun came up|as soon as possible"
).split("|")
_ADJECTIVES = (
    "beautiful|cold|hot|dangerous|difficult|easy|empty|expensive|famous|fresh|full|funny|happy|heavy|important|"
    "large|late|long|loud|narrow|new|nice|old|poor|quiet|rich|sad|short|small|soft|strange|strong|sweet|tall|tired|"
    "warm|wet|wide|wonderful|wrong|young|yellow|purple|bright|clean|dry|sharp|thick|smooth|foolish|careful|ready"
).split("|")
_NOUNS = (
    "house|garden|river|weather|question|answer|problem|money|music|mountain|ocean|village|kitchen|language|picture|"
    "bread|butter|cheese|chicken|sugar|potato|orange|orchard|forest|bird|horse|cat|fish|engine|train|airplane|ship|"
    "pencil|paper|finger|shoulder|mouth|nose|winter|spring|thunder|cloud|moon|star|night|hour|minute|world|country|"
    "city|street|bridge|castle|hospital|library|market|museum|office|station|theater|voice|word|number|measure|"
    "treasure|vision|garage|youth|choice|noise|toy|joy|boy|coin|oil|hook|foot|wool|push|judge|bridge|measurement|thing"
).split("|")
_VERBS = (
    "go|come|eat|drink|sleep|read|write|sing|dance|swim|walk|run|drive|fly|wait|talk|listen|speak|laugh|cry|learn|"
    "work|play|cook|paint|travel|stay|leave|start|finish|try|help|think|believe|understand|remember|forget|stop|"
    "begin|sit down|stand up|get up|turn left|look around|pay the bill|answer the phone|catch the train|go shopping"
).split("|")
_NUMBERS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen|twenty|thirty one|forty|fifty six|"
    "sixty|seventy|eighty five|ninety nine|one hundred|a thousand"
).split("|")
_TEMPLATES = (
    "{S} {past} {O} {T}.|{S} {adv} {past} {O} {P}.|There is a {adj} {noun} {P}.|The {noun} was {adj} and {adj2}.|"
    "Would you like to {verb} {T}?|Could you please bring me {O}?|Where did you leave {O}?|Why is the {noun} so {adj}?|"
    "I think the {noun} is too {adj}.|We have to {verb} before we {verb2}.|How many {noun}s do you see {P}?|"
    "{S} never wanted to {verb} {T}.|Please put {O} {P}.|What a {adj} {noun}!|If you {verb}, I will {verb2}.|"
    "{T2}, {S} {past} {O}.|She has {num} {noun}s and {num2} {noun2}s.|Do not {verb} {P}!|It takes {num} minutes to {verb}.|"
    "My {noun} is {adj}, but your {noun2} is {adj2}.|He said that {S} {past} {O}.|Let us {verb} and {verb2} {T}.|"
    "The {adj} {noun} {P} belongs to {S}.|Can {S} {verb} {P}?|I need {num} {noun}s {T}.|Is this your {adj} {noun}?|"
    "{S} {past} {O} and {past2} {O2}.|Nothing is more {adj} than a {adj2} {noun}.|Who {past} {O} {T}?|"
    "After {num} days {S} {past} {O}.|The {noun} and the {noun2} are {adj}.|You should {adv} {verb} {T}."
).split("|")


def everyday_sentence(rng: random.Random) -> str:
    """One sentence from the templates, capitalised as people write."""
    fill = {
        "S": rng.choice(_SUBJECTS), "adv": rng.choice(_ADVERBS), "past": rng.choice(_PAST), "past2": rng.choice(_PAST),
        "O": rng.choice(_OBJECTS), "O2": rng.choice(_OBJECTS), "P": rng.choice(_PLACES), "T": rng.choice(_TIMES),
        "T2": rng.choice(_TIMES), "adj": rng.choice(_ADJECTIVES), "adj2": rng.choice(_ADJECTIVES),
        "noun": rng.choice(_NOUNS), "noun2": rng.choice(_NOUNS), "verb": rng.choice(_VERBS), "verb2": rng.choice(_VERBS),
        "num": rng.choice(_NUMBERS), "num2": rng.choice(_NUMBERS),
    }  # fmt: skip
    text = rng.choice(_TEMPLATES).format(**fill)
    return text[0].upper() + text[1:]


def word_mixture(rng: random.Random, words: list[str]) -> str:
    """Unrelated words in a row: no sense, but sounds and transitions that running text rarely holds."""
    chosen = [rng.choice(words) for _ in range(rng.randint(4, 9))]
    if rng.random() < 0.5:
        chosen[rng.randrange(1, len(chosen) - 1)] += ","
    return " ".join(chosen).capitalize() + "."


def harvested_sentences(directory: Path = FORTUNE_DIRECTORY) -> Iterator[str]:
    """Sentences of 3 to 16 words found in the machine's own texts, in a fixed order; none when they are not installed."""
    for path in sorted(directory.glob("*.u8")):
        text = path.with_suffix("").read_text(encoding="utf-8", errors="ignore")
        for entry in re.split(r"\n%\n", text):
            flat = re.sub(r"\s+", " ", re.sub(r"\t*--.*", "", entry))
            for sentence in re.split(r"(?<=[.?!])\s+", flat):
                if re.fullmatch(r"[A-Z][A-Za-z' ,;]*[.?!]", sentence) and 3 <= len(sentence.split()) <= 16:
                    yield sentence


def training_sentences(count: int, knows: Callable[[str], bool], words: list[str], seed: int = 7) -> list[str]:
    """`count` distinct speakable sentences: harvested ones first, then templates with one word mixture in eight.

    knows: says whether a word (lower case) has a pronunciation
    words: what word mixtures draw from
    """
    rng = random.Random(seed)
    chosen: dict[str, None] = {}
    harvested = [s for s in dict.fromkeys(harvested_sentences()) if all(knows(w) for w in spoken_words(s))]
    rng.shuffle(harvested)
    for sentence in harvested[: count // 2]:
        chosen[sentence] = None
    while len(chosen) < count:
        sentence = word_mixture(rng, words) if rng.random() < 0.125 else everyday_sentence(rng)
        if all(knows(word) for word in spoken_words(sentence)):
            chosen[sentence] = None
    result = list(chosen)
    rng.shuffle(result)
    return result


def spoken_words(text: str) -> list[str]:
    """The words of a sentence, lower case, without punctuation."""
    return re.findall(r"[a-z']+", text.lower())
