import pytest

from cosyforge.text.formula import read_formula
from cosyforge.text.frontend import Frontend

OFFICIAL = Frontend({"languages": ["zh", "en", "fr"], "english": "text"})
PHONES = Frontend({"languages": ["en"], "english": "phones"})


def words(text, **options):
    return [segment.words for segment in OFFICIAL.segments(text, **options)]


@pytest.mark.parametrize("formula", ["$a+b$", "$$a+b$$", r"\(a+b\)", r"\[a+b\]", "$$\na+b\n$$"])
def test_four_delimiters_enclose_a_formula(formula):
    assert words(f"结果是{formula}。") == ["结果是a加b。"]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("It costs $5 and $6.", "It costs five dollars and six dollars."),
        ("It costs $5-$6 or 7$.", "It costs five to six dollars or seven dollars."),
        ("Between $5 million and $6 million$", "Between five million dollars and six million dollars dollars."),
        ("Give me $5, please. It is $6 now.", "Give me five dollars, please. It is six dollars now."),
        (r"It costs \$5 and \$6.", "It costs five dollars and six dollars."),
        ("价格从$5到$6。", "价格从五到六美元。"),
        ("Set $HOME/$USER first", "Set dollars HOME slash dollars USER first."),
        ("If $x^2$ costs $5, fine", "If x squared costs five dollars, fine."),
    ],
)
def test_a_dollar_sign_before_an_amount_is_money(text, spoken):
    assert " ".join(words(text)) == spoken


def test_a_formula_is_never_cut_by_the_sentence_splitter():
    text = r"Let $f(x)! = 1. \text{ Then } y?$ hold. " + r"And $$" + "a+" * 120 + "b$$ too."
    shown = [segment.text for segment in OFFICIAL.segments(text)]
    assert all(piece.count("$") % 2 == 0 for piece in shown)


def test_a_formula_that_arrives_in_pieces_waits_for_its_end():
    stream = OFFICIAL.stream()
    assert stream.push(r"So is $\frac{1. ") == []
    assert stream.push(r"}{2}$ right. Yes") != []


def test_what_cannot_be_read_is_read_raw_and_named():
    segments, warnings = OFFICIAL.plan(r"看$\begin{matrix}a&b\end{matrix}$这里")
    assert "begin" in segments[0].words
    assert any("read as it is written" in warning for warning in warnings)


def test_formulas_are_said_in_mandarin_and_english_only():
    assert read_formula("a+b", "fr") is None
    segments, warnings = OFFICIAL.plan("Voici $a+b$ pour vous", "fr")
    assert "a" in segments[0].words
    assert warnings


@pytest.mark.parametrize(
    ("tex", "mandarin", "english"),
    [
        (r"\frac{a+b}{2}", "二分之a加b", "A plus b, all over two"),
        (r"\sqrt{x+1}", "根号下x加一", "the square root of x plus one"),
        (r"\sin^2 x", "正弦平方x", "sine squared x"),
        (r"x_{n+1}", "x下标n加一", "x sub n plus one"),
        (r"20^\circ\mathrm{C}", "二十摄氏度", "twenty degrees Celsius"),
        (r"\lim_{x\to 0} x", "当x趋向于零时的极限，x", "the limit as x approaches zero of x"),
        (r"\sum_{i=1}^{n} i", "求和从i等于一到n，i", "the sum from i equals one to n of i"),
        (r"f'(x)", "f撇左括号x右括号", "f prime open parenthesis x close parenthesis"),
        (r"-x \pm 5", "负x加减五", "minus x plus or minus five"),
        (r"\vec{a}", "向量a", "vector A"),
        (r"1{,}000", "一千", "one thousand"),
        (r"\quantity{3}{m^2}", "三平方米", "three square meters"),
        (r"\left|x-1\right|", "x减一的绝对值", "the absolute value of x minus one"),
    ],
)
def test_more_formulas(tex, mandarin, english):
    assert read_formula(tex, "zh") == mandarin
    assert read_formula(tex, "en") == english


@pytest.mark.parametrize(
    "tex", ["{" * 300, r"\frac{1}{" * 60 + "x" + "}" * 60, "^", "_", "\\", r"\foo", "}", r"\frac{1}", ""]
)
def test_broken_formulas_have_no_reading(tex):
    assert read_formula(tex, "en") is None


def test_the_letter_a_of_a_formula_is_a_letter_for_models_that_read_phones():
    assert PHONES.segments("$a+b$ is it")[0].spoken.startswith("[EY] [P][L][AH][S] [B][IY]")
