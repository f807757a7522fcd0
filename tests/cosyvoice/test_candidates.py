import pytest
import torch

from cosyforge.cosyvoice.candidates import REACH_AHEAD, REACH_BACK, Candidates
from cosyforge.cosyvoice.config import LMConfig, SamplingConfig
from cosyforge.cosyvoice.lm import SpeechLM, generate
from cosyforge.cosyvoice.sampling import ras_distribution, ras_sample_rows

CONFIG = LMConfig(
    text_vocab_size=60, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
    speech_token_size=40, num_special_rows=8, alignment_head=(1, 2),
)  # fmt: skip
TEXT, PROMPT, SPEECH = [5, 6, 7, 8], [40, 41], [3, 4, 5]
LONG_TEXT = list(range(10, 30))
WIDE = SamplingConfig(top_p=0.95, top_k=30)


@pytest.fixture(scope="module")
def lm() -> SpeechLM:
    torch.manual_seed(1)
    return SpeechLM(CONFIG).eval()


def candidates(lm, num_rows=3, sampling=WIDE, min_len=30, max_len=30, text=TEXT) -> Candidates:
    return Candidates(
        lm, text, PROMPT, SPEECH, num_rows=num_rows, sampling=sampling, min_len=min_len, max_len=max_len
    )  # fmt: skip


def draw(some: Candidates, seeds: list[int], num_steps: int, place: int | None = None) -> list[torch.Tensor]:
    some.begin(seeds, place)
    return [some.draw() for _ in range(num_steps)]


def test_greedy_rows_say_what_generate_says(lm):
    greedy = SamplingConfig(top_k=1)
    wanted = list(
        generate(
            lm, torch.tensor(TEXT), torch.tensor(PROMPT), torch.tensor(SPEECH), sampling=greedy, min_len=12, max_len=12
        )
    )
    some = candidates(lm, sampling=greedy, min_len=12, max_len=12)
    draw(some, [0, 1, 2], 5)
    some.choose(1)
    draw(some, [3, 4, 5], 7)
    some.choose(2)
    assert some.chosen == wanted


def test_rows_differ_and_each_depends_on_its_seed_alone(lm):
    some = candidates(lm)
    draw(some, [0, 1, 2], 10)
    first = [list(row) for row in some.drawn]
    assert len({tuple(row) for row in first}) == 3
    draw(some, [0, 9, 2], 10)
    assert some.drawn[0] == first[0]
    assert some.drawn[1] != first[1]
    assert some.drawn[2] == first[2]


def test_after_a_choice_all_rows_go_on_from_it(lm):
    """The scores after a choice are those of a fresh run over the chosen tokens."""
    some = candidates(lm)
    draw(some, [0, 1, 2], 6)
    chosen = some.choose(2)
    assert some.chosen == chosen
    attention = draw(some, [7, 8, 9], 4)
    embeds = torch.cat(
        [
            lm.embed_speech(torch.tensor([[CONFIG.sos]])),
            lm.embed_text(torch.tensor([PROMPT + TEXT])),
            lm.embed_speech(torch.tensor([[CONFIG.task_id, *SPEECH, *chosen, *some.drawn[1][:3]]])),
        ],
        dim=1,
    )
    with torch.inference_mode():
        _, wanted = lm(embeds, attention_head=(1, 2))
    torch.testing.assert_close(attention[3][1], wanted[0, -1, 3:7], atol=1e-5, rtol=1e-4)


def test_another_attempt_begins_at_the_last_choice(lm):
    some = candidates(lm)
    draw(some, [0, 1, 2], 6)
    some.choose(0)
    draw(some, [3, 4, 5], 8)
    first = [list(row) for row in some.drawn]
    draw(some, [6, 7, 8], 3)
    draw(some, [3, 4, 5], 8)
    assert some.drawn == first


def test_rows_end_at_the_longest_length_without_having_stopped(lm):
    some = candidates(lm, min_len=4, max_len=4)
    draw(some, [0, 1, 2], 4)
    assert all(some.has_ended)
    assert not any(some.has_stopped)
    assert {len(row) for row in some.drawn} == {4}


def test_a_row_that_stops_keeps_its_tokens_while_others_go_on(lm):
    some = candidates(lm, num_rows=8, sampling=SamplingConfig(top_p=1.0, top_k=48), min_len=0, max_len=200)
    some.begin(list(range(8)))
    while not all(some.has_ended):
        before = [list(row) for row in some.drawn]
        ended = list(some.has_ended)
        some.draw()
        assert all(row == old for row, old, done in zip(some.drawn, before, ended, strict=True) if done)
    assert all(some.has_stopped)
    assert len({len(row) for row in some.drawn}) > 1
    assert all(token < 40 for row in some.drawn for token in row)


def test_rows_held_to_their_place_look_no_further_than_they_reach(lm):
    """Neither when the stretch begins, with what the last choice looked at, nor step by step."""
    some = candidates(lm, text=LONG_TEXT)
    draw(some, [0, 1, 2], 6)
    some.choose(2)
    free = torch.stack(draw(some, [7, 8, 9], 12))
    assert (free > 0).all()
    attention = torch.stack(draw(some, [7, 8, 9], 12, place=9))  # (S, B, T)
    places = [[9] * 3, [9] * 3, *attention[1:-1].argmax(2).tolist()]
    for looks, at in zip(attention, places, strict=True):
        for look, place in zip(looks, at, strict=True):
            seen = look.nonzero().flatten().tolist()
            assert seen == list(range(max(0, place - REACH_BACK), min(20, place + REACH_AHEAD + 1)))
    assert {place for at in places for place in at} != {9}


def test_a_row_held_to_its_place_reaches_a_short_text_whole_and_draws_the_same(lm):
    held, free = candidates(lm), candidates(lm)
    for some, place in ((held, 1), (free, None)):
        draw(some, [0, 1, 2], 6)
        some.choose(2)
        draw(some, [7, 8, 9], 8, place)
    assert held.drawn == free.drawn


def test_after_a_held_attempt_the_next_stretch_goes_on_from_what_was_chosen(lm):
    """Of a text within reach the scores are those of a fresh run over the chosen tokens; of a longer one all is seen again."""
    some = candidates(lm)
    draw(some, [0, 1, 2], 6)
    some.choose(2)
    draw(some, [7, 8, 9], 5, place=0)
    draw(some, [10, 11, 12], 5, place=0)
    some.choose(1)
    attention = draw(some, [3, 4, 5], 4)
    embeds = torch.cat(
        [
            lm.embed_speech(torch.tensor([[CONFIG.sos]])),
            lm.embed_text(torch.tensor([PROMPT + TEXT])),
            lm.embed_speech(torch.tensor([[CONFIG.task_id, *SPEECH, *some.chosen, *some.drawn[1][:3]]])),
        ],
        dim=1,
    )
    with torch.inference_mode():
        _, wanted = lm(embeds, attention_head=(1, 2))
    torch.testing.assert_close(attention[3][1], wanted[0, -1, 3:7], atol=1e-5, rtol=1e-4)

    long = candidates(lm, text=LONG_TEXT)
    draw(long, [0, 1, 2], 6, place=0)
    long.choose(0)
    assert (torch.stack(draw(long, [3, 4, 5], 3)[1:]) > 0).all()


def test_held_rows_keep_their_place_when_the_cache_grows(lm):
    some = candidates(lm, text=LONG_TEXT, min_len=90, max_len=90)
    attention = torch.stack(draw(some, [0, 1, 2], 80, place=0))
    assert ((attention[1:] > 0).sum(dim=2) <= REACH_BACK + 1 + REACH_AHEAD).all()


def test_a_row_can_be_made_to_end(lm):
    some = candidates(lm)
    draw(some, [0, 1, 2], 10)
    first = list(some.drawn[1])
    some.stop(1, 4)
    assert some.has_ended == some.has_stopped == [False, True, False]
    assert some.choose(1) == first[:4] == some.chosen


def test_a_model_without_a_head_shows_nothing():
    torch.manual_seed(1)
    headless = SpeechLM(LMConfig(**{**CONFIG.__dict__, "alignment_head": None})).eval()
    some = candidates(headless, num_rows=1)
    assert not torch.stack(draw(some, [0], 3)).any()
    assert len(some.drawn[0]) == 3


@pytest.mark.parametrize(
    ("config", "history"),
    [
        (SamplingConfig(top_p=0.7, top_k=5), [3] * 10),
        (SamplingConfig(top_p=0.5, top_k=25, temperature=0.8), []),
        (SamplingConfig(top_k=1), []),
        (SamplingConfig(temperature=0.0), [1]),
    ],
)
def test_rows_are_drawn_with_the_exact_probabilities(config, history):
    log_probs = torch.tensor([0.05, 0.3, 0.1, 0.4, 0.15]).log()
    num = 4000
    generators = [torch.Generator().manual_seed(seed) for seed in range(num)]
    drawn = torch.tensor(ras_sample_rows(log_probs.expand(num, -1), [history] * num, config, generators))
    share = torch.bincount(drawn, minlength=5) / num
    assert (share - ras_distribution(log_probs, history, config)).abs().max() < 0.03
