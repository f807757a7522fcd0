"""Expected numbers are the product document's worked examples, or arithmetic that is shown."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cosyforge.billing.characters import count_characters
from cosyforge.billing.ledger import add_unit_mark, add_usage, deployment_usage_of
from cosyforge.billing.meter import Meter
from cosyforge.billing.tariff import Tariff, money, training_tokens
from cosyforge.billing.usage import unit_seconds
from fakes import make_database

TARIFF = Tariff(Decimal("0.2"), Decimal("1.0"), {"MU5": Decimal("20"), "MU2": Decimal("80")})
T0 = datetime(2026, 5, 27, 9, 0, tzinfo=UTC)


def _after(seconds):
    return T0 + timedelta(seconds=seconds)


class TestTraining:
    def test_the_documents_benchmark(self):
        tokens = training_tokens(4, 4, 497.03)
        assert tokens == 99_406
        assert money(TARIFF.training_cost(tokens)) == "19.88"

    def test_the_recommended_epochs_cost_twenty_times_the_quick_example(self):
        assert training_tokens(60, 100, 497.03) == 20 * training_tokens(4, 4, 497.03)

    @pytest.mark.parametrize(("audio_s", "tokens"), [("0.02", 1), ("0.06", 2), ("0.0199", 0)])
    def test_halves_are_rounded_up(self, audio_s, tokens):
        # 0.02 s x 25 x 1 epoch = 0.5; 0.06 s -> 1.5, which rounding to even would also make 2, unlike 0.5
        assert training_tokens(1, 0, Decimal(audio_s)) == tokens


class TestDeployments:
    def test_three_hours_of_one_mu5_replica(self):
        assert TARIFF.deployment_cost("MU5", unit_seconds([(T0, 1)], _after(3 * 3600))) == Decimal(60)

    def test_one_hour_of_one_mu2_replica(self):
        assert TARIFF.deployment_cost("MU2", unit_seconds([(T0, 8)], _after(3600))) == Decimal(640)

    def test_scaling_splits_the_bill(self):
        # 1 unit for 100 s, 4 for 50 s, 2 for 10.5 s, then deleted
        steps = [(T0, 1), (_after(100), 4), (_after(150), 2), (_after(160.5), 0)]
        assert unit_seconds(steps, _after(10_000)) == Decimal("321.0")

    def test_nothing_ran(self):
        assert unit_seconds([], T0) == 0

    def test_a_name_used_again_is_another_deployment(self, tmp_path):
        database = make_database(tmp_path)
        with database.transaction() as connection:
            for deployment_id, units, at in [("one", 1, 0), ("one", 0, 10), ("two", 8, 20), ("two", 0, 25)]:
                spec = "MU5" if deployment_id == "one" else "MU2"
                add_unit_mark(
                    connection,
                    workspace_id="w",
                    deployment_id=deployment_id,
                    deployed_model="m",
                    model_unit_spec=spec,
                    units=units,
                    reason="test",
                    now=_after(at),
                )
            usages = deployment_usage_of(connection, "w", _after(100))
        assert [(usage.model_unit_spec, usage.unit_seconds) for usage in usages] == [("MU5", 10), ("MU2", 40)]


def test_a_workspace_pays_for_what_it_used_and_for_nothing_else(tmp_path):
    database = make_database(tmp_path)
    with database.transaction() as connection:
        for workspace, kind, subject, model, quantity in [
            ("mine", "tokens", "ft-1", "base", 99_406),
            ("mine", "characters", "r1", "base", 15_000),
            ("mine", "characters", "r2", "tuned", 1_000_000),
            ("theirs", "tokens", "ft-2", "base", 1_000_000),
        ]:
            add_usage(
                connection, workspace_id=workspace, kind=kind, subject=subject, model=model, quantity=quantity, now=T0
            )
    usage = Meter(database, TARIFF, "base").usage_of("mine", T0)
    assert usage.total_cny == Decimal("19.8812") + Decimal("1.5")
    assert {(item.model, item.characters, item.cost_cny) for item in usage.characters} == {
        ("base", 15_000, Decimal("1.5")),
        ("tuned", 1_000_000, Decimal(0)),  # a fine-tuned model is paid for by model units
    }


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("你好", 4),
        ("中A文123", 8),
        ("Hello, world!", 13),
        ("，。", 2),
        ("かな", 2),
        ("漢字かな", 6),
        ("한글", 2),
        ("", 0),
    ],
)
def test_han_characters_count_two_and_all_others_one(text, characters):
    assert count_characters(text) == characters


def test_ssml_tags_are_not_counted():
    assert count_characters("<speak>你好</speak>", is_ssml=True) == 4
    assert count_characters('<speak rate="1.2">a<break time="1s"/>b &lt; c</speak>', is_ssml=True) == 6  # ab < c
    assert count_characters("<speak>你好</speak>") == 19
