"""The reading of a sentence: choice, checks and second attempts, on candidates that say what a test wants."""

import pytest
import torch

from cosyforge.synthesis.following import REPEAT, SKIP, STUCK, UNFINISHED, Follower, monotonic_path, where_it_looks
from cosyforge.synthesis.reading import EMPTY, LOOP, NO_STOP, TOO_LONG, Reading, ReadingReport, is_loop

NUM_TEXT = 20


class Scripted:
    """Stands for Candidates: each attempt plays the next script; a script holds per row the (token, place) it draws.

    A row that ends its script has stopped, or has run into the longest length when `runs_out`.
    """

    def __init__(self, *scripts: list[list[tuple[int, int]]], runs_out: bool = False, vague_row: int | None = None):
        self.num_rows, self.num_text = len(scripts[0]), NUM_TEXT
        self.chosen: list[int] = []
        self.seeds: list[list[int]] = []
        self.held_to: list[int | None] = []
        self._scripts, self._runs_out, self._vague_row = list(scripts), runs_out, vague_row

    def begin(self, seeds, place=None):
        self.seeds.append(seeds)
        self.held_to.append(place)
        self._script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.drawn = [[] for _ in range(self.num_rows)]
        self.has_ended = [False] * self.num_rows
        self.has_stopped = [False] * self.num_rows

    def draw(self) -> torch.Tensor:
        attention = torch.zeros(self.num_rows, NUM_TEXT)
        for row, script in enumerate(self._script):
            step = len(self.drawn[row])
            if step == len(script):
                self.has_ended[row] = self.has_stopped[row] = True
                continue
            self.has_ended[row] = self._runs_out and step == len(script) - 1
            token, place = script[step]
            attention[row, place] = 0.5 if row == self._vague_row else 1.0
            attention[row, 0] += 0.5 if row == self._vague_row else 0.0
            self.drawn[row].append(token)
        return attention

    def stop(self, row: int, num_tokens: int) -> None:
        self.drawn[row] = self.drawn[row][:num_tokens]
        self.has_ended[row] = self.has_stopped[row] = True

    def choose(self, row: int) -> list[int]:
        self.chosen = [*self.chosen, *self.drawn[row]]
        return self.drawn[row]


def steady(num_tokens: int = 22, first: int = 100) -> list[tuple[int, int]]:
    """A good reading: about one text token per speech token, all different."""
    return [(first + i, min(i, NUM_TEXT - 1)) for i in range(num_tokens)]


def read(candidates: Scripted, **changes) -> tuple[list[int], ReadingReport]:
    report = ReadingReport()
    settings = {"seed": 5, "silent": frozenset(), "most_tokens": 200, "follows": True, "report": report}
    return list(Reading(candidates, **(settings | changes)).tokens()), report


def test_a_good_sentence_is_drawn_once():
    tokens, report = read(Scripted([steady()]))
    assert tokens == [token for token, _ in steady()]
    assert report == ReadingReport(0, [])


def test_the_row_that_follows_the_text_best_is_kept():
    skipping = [(i, min(i + (4 if i > 9 else 0), NUM_TEXT - 1)) for i in range(18)]
    tokens, report = read(Scripted([skipping, steady(first=200), steady(first=300)], vague_row=2))
    assert tokens[0] == 200
    assert report.resampled == 0


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        (SKIP, [(i, i if i < 5 else i + 9) for i in range(11)]),
        (REPEAT, steady(15) + [(50 + i, 3 + i) for i in range(17)]),
        (UNFINISHED, steady(10)),
        (STUCK, [*steady(10), *((200 + i, 9) for i in range(30)), *((i, 9 + i) for i in range(11))]),
        (EMPTY, []),
    ],
)
def test_a_bad_sentence_is_drawn_again(name, bad):
    silent = frozenset({1000})
    candidates = Scripted([bad], [steady()])
    good = steady()
    if name == STUCK:  # longer than one stretch: only the second one shows it
        good = [(300 + i, 10 + i) for i in range(10)]
        candidates = Scripted([bad[:28]], [bad[28:]], [good])
    tokens, report = read(candidates, silent=silent)
    assert report.resampled == 1
    assert not report.failed_checks
    assert tokens[-1] == good[-1][0]
    assert len({tuple(seeds) for seeds in candidates.seeds}) == len(candidates.seeds)


def test_a_stretch_is_drawn_again_with_the_rows_held_to_where_the_last_one_ended():
    good, bad = steady(28), [(200 + i, 19 if i > 3 else i) for i in range(25)]
    good = [(token, i // 3) for i, (token, _) in enumerate(good)]
    end = [(300 + i, 10 + i) for i in range(10)]
    candidates = Scripted([good], [[(200, 19), (201, 0), *bad[2:]]], [end])
    read(candidates)
    assert candidates.held_to == [None, None, 9]
    jumping = Scripted([[(i, 19 - i) for i in range(20)]], [steady()])
    read(jumping)
    assert jumping.held_to == [None, 0]
    silence = Scripted([[(7, 0)] * 6])
    read(silence, follows=False, silent=frozenset({7}))
    assert silence.held_to == [None, None, None]


def test_a_row_that_misses_the_end_of_the_text_is_made_to_end():
    """Forty tokens on the last sounds, with glances back, are taken as the end, though the row goes on."""
    talking_on = [*steady(18), *((200 + i, 17 + i % 3 if i % 7 else 15) for i in range(80))]
    candidates = Scripted([talking_on[:28]], [talking_on[28:53]], [talking_on[53:78]], [talking_on[78:]])
    tokens, report = read(candidates)
    assert tokens == [token for token, _ in talking_on[: 17 + 40]]
    assert report == ReadingReport(0, [])


def test_after_two_more_attempts_a_bad_sentence_stands_and_is_named():
    candidates = Scripted([steady(10)])
    tokens, report = read(candidates)
    assert len(candidates.seeds) == 3
    assert report == ReadingReport(1, [UNFINISHED])
    assert len(tokens) == 10


def test_a_sentence_that_does_not_stop_is_named():
    _, report = read(Scripted([steady()], runs_out=True))
    assert report == ReadingReport(1, [NO_STOP])


def test_a_sentence_longer_than_plausible_is_named():
    _, report = read(Scripted([steady()]), most_tokens=15)
    assert report == ReadingReport(1, [TOO_LONG])


def test_a_model_without_a_head_is_checked_by_its_tokens_alone():
    jumping = [(i, 19 - i % 20) for i in range(25)]
    assert read(Scripted([jumping]), follows=False)[1] == ReadingReport(0, [])
    silence = [(7, 0)] * 6
    assert read(Scripted([silence]), follows=False, silent=frozenset({7}))[1] == ReadingReport(1, [EMPTY])


def test_a_loop_ends_the_sentence():
    class Looping(Scripted):
        """Says the same three tokens forever."""

        def draw(self):
            self.drawn[0].append(len(self.drawn[0]) % 3)
            return torch.zeros(1, NUM_TEXT)

    tokens, report = read(Looping([[]]), follows=False)
    assert 75 <= len(tokens) <= 110
    assert report == ReadingReport(1, [LOOP])


def test_the_same_seed_draws_with_the_same_seeds_and_another_with_others():
    drawn = []
    for seed in (5, 5, 6):
        candidates = Scripted([steady(10)])
        read(candidates, seed=seed)
        drawn.append(candidates.seeds)
    assert drawn[0] == drawn[1]
    assert not {s for seeds in drawn[0] for s in seeds} & {s for seeds in drawn[2] for s in seeds}


def test_silent_tokens_after_five_in_a_row_are_dropped_with_their_places():
    script = [(token, min(i, 19)) for i, token in enumerate([7, 1, 2, 1, 2, 1, 2, 1, 8, 1, 9, *range(20, 32)])]
    candidates = Scripted([script])
    reading = Reading(
        candidates, seed=0, silent=frozenset({1, 2}), most_tokens=99, follows=True, report=ReadingReport()
    )  # fmt: skip
    assert list(reading.tokens())[:9] == [7, 1, 2, 1, 2, 1, 8, 1, 9]
    assert [int(row.argmax()) for row in reading.attention][:9] == [0, 1, 2, 3, 4, 5, 8, 9, 10]


@pytest.mark.parametrize("loop", [[5], [5, 6], list(range(12))])
def test_repetition_is_a_loop_and_speech_is_none(loop):
    assert is_loop([20, 21, 22] + loop * 80)
    assert not is_loop(loop * 2)
    tokens = torch.randint(0, 27, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    assert not any(is_loop(tokens[:end]) for end in range(300))


def test_the_place_looked_at_and_how_widely():
    attention = torch.zeros(2, 10)
    attention[0, 4] = 0.5
    attention[1, 2], attention[1, 6] = 0.6, 0.4
    places, widths = where_it_looks(attention)
    assert places == [4, 2]
    assert widths == pytest.approx([0.0, 4 * (0.6 * 0.4) ** 0.5], abs=1e-3)


def test_a_branch_goes_on_from_the_same_place_with_a_clean_record():
    follower = Follower(NUM_TEXT)
    follower.see(15, 0.0)
    branch = follower.branch()
    branch.see(16, 0.5)
    assert follower.faults == [SKIP]
    assert (branch.faults, branch.mean_cost, branch.position) == ([], 0.5, 16)


def test_the_path_through_the_text_never_goes_back_and_ignores_a_stray_look():
    wanted = [0, 0, 1, 2, 2, 2, 5, 6, 6, 7]
    attention = torch.full((10, 9), 0.02)
    attention[range(10), wanted] = 0.8
    attention[4] = torch.tensor([0.0] * 8 + [1.0])  # one stray look at the end
    assert monotonic_path(attention) == [*wanted[:4], 2, *wanted[5:]]
