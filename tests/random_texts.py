"""Seeded random texts: noise of all of Unicode, and pieces of what people write, glued together."""

import random

FRAGMENTS = (
    "你好，世界。", "今天是2026年5月5日", "Hello world. ", "Dr. Smith paid $5.50, ", "$x^2+1$", "$$\\frac{a}{b}$$", "\\(\\alpha\\)", "\\[",
    "$", "**bold**", "# Title\n", "- item\n", "1. one\n", "[text](http://a.b/c)", "![alt](x.png)", "`code`", "```py\nx=1\n```\n",
    "| a | b |\n|---|---|\n", "> quote\n", "---\n", "<speak>", "<b>", "http://x.y/?Q=1 ", "a@b.co ", "😀", "\u200b", "\ue000",
    "\ue100", "１２３", "①", "½", "٣٤", "１：００", "3:1", "12:30", "13812345678", "1,234.5%", "-5°C", "5kg", "10-20", "2/3", "1e9",
    "…", "...", "!!!", "？！", "\n\n", "\n", "\r\n", "\t", " ", "“”", "'s", "U.S. ", "e.g. ", "No. 5", "A", "a b", "[HH][AH0]",
    "[laughter]", "<|endofprompt|>", "Привет ", "こんにちは", "สวัสดี", "안녕 ", "ü", "e\u0301", "\ufffd", "9" * 21, "0", "1.2.3",
    "192.168.0.1", "C++", "AT&T", "\\", "{", "}", "^", "_", "~", "*", "x" * 50, "。" * 5, "5/0", "100%", "¥100", "USD 5", "5'10\"",
    "II", "Henry VIII", "\u2029",
)  # fmt: skip
RANGES = ((32, 127), (0x20, 0x3000), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0xE000, 0xFFFF), (0, 32))


def random_text(chance: random.Random) -> str:
    if chance.random() < 0.2:
        return "".join(chr(chance.randrange(*chance.choice(RANGES))) for _ in range(chance.randrange(80)))
    return "".join(chance.choice(FRAGMENTS) for _ in range(chance.randrange(1, 11)))


def in_pieces(text: str, chance: random.Random) -> list[str]:
    pieces, place = [], 0
    while place < len(text):
        length = chance.choice((1, 1, 2, 3, 7, 20))
        pieces.append(text[place : place + length])
        place += length
    return pieces
