from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosyforge.deployments.templates import TEMPLATES, cheapest_template, check_capacity, find_template
from cosyforge.errors import InvalidParameter

PRICES = {"MU5": Decimal(20), "MU2": Decimal(80)}


@given(
    capacity=st.one_of(st.integers(-20, 1020), st.integers()),
    base_capacity=st.integers(1, 16),
    least=st.sampled_from([0, 1]),
)
def test_capacity_is_whole_replicas_of_less_than_a_thousand_units(capacity, base_capacity, least):
    allowed = {number * base_capacity for number in range(1000)} & set(range(least, 1000))
    if capacity in allowed:
        check_capacity(capacity, base_capacity, least=least)
    else:
        with pytest.raises(InvalidParameter) as caught:
            check_capacity(capacity, base_capacity, least=least)
        shown_least = 1 if capacity == 0 else 0
        assert caught.value.message == (
            f"Invalid capacity ({capacity}), capacity must be larger than or equal to {shown_least} and multiples of "
            f"{base_capacity} and less than 1000!"
        )


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.model_unit_spec)
def test_a_template_is_found_by_its_id_and_by_its_units(template):
    assert find_template(template.template_id) is template
    assert find_template(template.model_unit_spec) is template


@pytest.mark.parametrize(
    ("capacity", "prices", "spec"),
    [
        (1, PRICES, "MU5"),
        (8, PRICES, "MU5"),
        (8, {"MU5": Decimal(20), "MU2": Decimal(10)}, "MU2"),
        # cheaper, but 9 units make no whole replicas of 8
        (9, {"MU5": Decimal(20), "MU2": Decimal(10)}, "MU5"),
        # fits nowhere: the capacity check that follows says so
        (0, PRICES, "MU5"),
    ],
)
def test_who_names_no_template_gets_the_cheapest_that_fits(capacity, prices, spec):
    assert cheapest_template(capacity, prices).model_unit_spec == spec
