import pytest

from cosyforge.text.frontend import Frontend

OFFICIAL = Frontend({"languages": ["zh", "en"], "english": "text"})


def words(text):
    return [segment.words for segment in OFFICIAL.plan(text, markdown_filter=True)[0]]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("# The title\nand text", ["The title.", "and text."]),
        ("Some **bold** and *thin* __words__ here", ["Some bold and thin words here."]),
        ("这是**重点**内容", ["这是重点内容。"]),
        ("un*believ*able snake_case names", ["unbelievable snake underscore case names."]),
        ("- first thing\n- second thing\n* third thing", ["first thing.", "second thing.", "third thing."]),
        ("1. first thing\n2. second thing", ["one, first thing.", "two, second thing."]),
        ("- [x] done with it", ["done with it."]),
        ('See [the docs](https://example.com/a_b?c=1 "Title") now', ["See the docs now."]),
        ("See [the docs][ref] now\n\n[ref]: https://example.com", ["See the docs now."]),
        ("Look: ![a black cat](cat.png)", ["Look, a black cat."]),
        ("Run `make all` first", ["Run make all first."]),
        ("```python\nprint nothing\n```\nafter it", ["print nothing.", "after it."]),
        ("> quoted words\n> go on", ["quoted words go on."]),
        ("one part\n\n---\n\nother part", ["one part.", "other part."]),
        ("A title\n=======\nand text", ["A title.", "and text."]),
        ("| name | age |\n|------|-----|\n| Ann | 5 |", ["name, age.", "Ann, five."]),
        ("~~old~~ new words<br>here", ["old new words here."]),
        ("3 * 4 = 12 and 2*3 here", ["three times four equals twelve and two times three here."]),
        (r"not \*emphasis\* here", ["not asterisk emphasis asterisk here."]),
        ("Read <https://a.com> now", ["Read HTTPS colon slash slash a dot com now."]),
        ("The value $a_b$ is **$c^2$**", ["The value A sub b is c squared."]),
    ],
)
def test_marks_are_not_read_and_words_are(text, spoken):
    assert words(text) == spoken


def test_what_the_user_wrote_is_shown_with_its_marks():
    segments, warnings = OFFICIAL.plan("Some **bold.** *Text* too", markdown_filter=True)
    assert [segment.text for segment in segments] == ["Some **bold.**", "*Text* too"]
    assert warnings == []


def test_lines_that_are_marks_alone_are_named():
    _, warnings = OFFICIAL.plan("one\n\n---\n\n```python\ntwo\n```\n", markdown_filter=True)
    assert [warning.split("'")[1] for warning in warnings] == ["---", "```python", "```"]


def test_without_the_filter_a_star_is_a_star():
    assert OFFICIAL.segments("这是**重点**")[0].words == "这是星号星号重点星号星号。"


def test_an_unfinished_mark_is_held_back():
    stream = OFFICIAL.stream(markdown_filter=True)
    pieces = ["Some *", "*bold*", "* words. See [the ", "docs](http://a", ".b) now. Th", "e end"]
    segments = [segment for piece in pieces for segment in stream.push(piece)] + stream.finish()
    assert [segment.words for segment in segments] == ["Some bold words.", "See the docs now.", "The end."]
