"""Whatever happens, in whatever order: no second is missing, none counts twice, and the days add up to the whole."""

import itertools
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from cosyforge.billing.tariff import Tariff, fen_of, training_tokens
from cosyforge.billing.usage import Amounts, segments_of, start_of, sum_unit_seconds, summarize, unit_seconds

TARIFF = Tariff(Decimal("0.2"), Decimal("1.0"), {"MU5": Decimal("20"), "MU2": Decimal("80")})
T0 = datetime(2026, 5, 27, 9, 0, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ZONES = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.integers(0, 40 * 86_400 * 10**6).map(lambda microseconds: T0 + microseconds * MICROSECOND)
steps = st.lists(st.tuples(moments, st.integers(0, 64)), max_size=12).map(
    lambda items: sorted(items, key=lambda s: s[0])
)


def _segments(steps, end):
    marks = [
        SimpleNamespace(deployment_id="d", deployed_model="m", model_unit_spec="MU5", at=at, units=units)
        for at, units in steps
        if at <= end
    ]
    return list(segments_of(marks, end))


def _by_counting(steps, start, end):
    """The area, from the units that are in force between any two moments at which something may change."""
    edges = sorted({start, end, *(at for at, _ in steps if start < at < end)})
    total = 0
    for left, right in itertools.pairwise(edges):
        before = [units for at, units in steps if at <= left]
        total += (before[-1] if before else 0) * ((right - left) // MICROSECOND)
    return Decimal(total) / 10**6


@given(steps, moments)
def test_the_area_is_what_counting_between_the_events_gives(steps, end):
    known = [step for step in steps if step[0] <= end]
    counted = _by_counting(known, T0, end)
    assert sum_unit_seconds(_segments(steps, end)) == counted
    assert unit_seconds(known, end) == counted


@given(steps, moments, ZONES)
def test_the_days_add_up_to_the_whole_and_none_is_longer_than_a_day(steps, end, zone):
    segments = _segments(steps, end)
    parts = [(day, part) for segment in segments for day, part in segment.by_day(zone)]
    assert sum_unit_seconds(part for _, part in parts) == sum_unit_seconds(segments)
    for day, part in parts:
        assert start_of(day, zone) <= part.start < part.end <= start_of(day + timedelta(days=1), zone)


@given(steps, st.lists(moments, max_size=6), moments)
def test_any_cut_into_periods_loses_nothing(steps, cuts, end):
    """A bill from month to month is the bill of the whole."""
    edges = [T0, *sorted(cut for cut in cuts if cut < end), end]
    total = Decimal(0)
    for start, stop in itertools.pairwise(edges):
        parts = (segment.since(start) for segment in _segments(steps, stop))
        total += sum_unit_seconds(part for part in parts if part is not None)
    assert total == sum_unit_seconds(_segments(steps, end))


amounts = st.builds(
    lambda tokens, microseconds, characters, spec: Amounts(
        tokens,
        TARIFF.training_cost(tokens),
        Decimal(microseconds) / 10**6,
        TARIFF.deployment_cost(spec, Decimal(microseconds) / 10**6),
        characters,
        1,
        TARIFF.synthesis_cost(characters),
    ),
    st.integers(0, 10**9),
    st.integers(0, 10**13),
    st.integers(0, 10**9),
    st.sampled_from(["MU5", "MU2"]),
)


@given(st.lists(amounts, max_size=30))
def test_lines_of_a_bill_add_up_to_the_fen(lines):
    summary = summarize([({"line": index}, line) for index, line in enumerate(lines)])
    total = summary.total
    for name in ("training_fen", "deployment_fen", "synthesis_fen", "total_fen"):
        assert sum(getattr(group.bill, name) for group in summary.groups) == getattr(total, name)
    assert total.training_fen == fen_of(sum((line.training_cny for line in lines), Fraction(0)))
    for group, line in zip(summary.groups, lines, strict=True):
        assert abs(group.bill.training_fen - 100 * line.training_cny) < 1
        assert abs(group.bill.deployment_fen - 100 * line.deployment_cny) < 1


@given(st.integers(0, 200), st.integers(0, 200), st.decimals("0", "36000", places=3))
def test_tokens_are_25_a_second_and_epoch_to_the_nearest_one(lm_epochs, fm_epochs, audio_s):
    exact = Fraction(audio_s) * 25 * (lm_epochs + fm_epochs)
    tokens = training_tokens(lm_epochs, fm_epochs, audio_s)
    assert -Fraction(1, 2) < tokens - exact <= Fraction(1, 2)
    assert tokens == training_tokens(fm_epochs, lm_epochs, float(audio_s))


@settings(max_examples=30)
@given(st.integers(1, 10))
def test_the_documents_benchmark_and_its_multiples(factor):
    assert training_tokens(4, 4, 497.03) == 99_406
    assert training_tokens(4 * factor, 4 * factor, 497.03) == 99_406 * factor
