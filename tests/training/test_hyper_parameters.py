"""The eight hyper-parameters: one check at the edge, every bad field named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.training.hyper_parameters import MAX_VALUE, SMALL_NETWORK_PARAMETERS, HyperParameters

DOCUMENT_EXAMPLE = {
    "lm_max_epoch": 4,
    "lm_step": 1,
    "lm_num": 2,
    "fm_max_epoch": 4,
    "fm_step": 2,
    "fm_num": 2,
    "lm_batch_size": 1000,
    "fm_batch_size": 2000,
}
NAMES = [field.name for field in fields(HyperParameters)]


def test_the_documents_example_is_accepted_and_survives_json() -> None:
    hyper = HyperParameters.parse(DOCUMENT_EXAMPLE)

    assert hyper.to_json() == DOCUMENT_EXAMPLE
    assert HyperParameters.parse(json.loads(json.dumps(hyper.to_json()))) == hyper


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1, MAX_VALUE])
def test_the_ends_of_the_range_are_accepted(name: str, value: int) -> None:
    assert getattr(HyperParameters.parse({**DOCUMENT_EXAMPLE, name: value}), name) == value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-1, "-1"),
        (MAX_VALUE + 1, "2147483648"),
        (5.0, "5.0"),
        (True, "true"),
        ("5", '"5"'),
        (None, "null"),
        ([4], "[4]"),
        (float("nan"), "NaN"),
    ],
)
def test_anything_else_is_refused_by_name(name: str, value: object, shown: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        HyperParameters.parse({**DOCUMENT_EXAMPLE, name: value})

    assert caught.value.message == f"hyper_parameters.{name} must be an integer in [1, 2147483647] (got {shown})"


def test_all_bad_fields_are_named_at_once() -> None:
    values = {**DOCUMENT_EXAMPLE, "lm_step": "5", "fm_num": 0, "learning_rate": 1}
    del values["lm_num"]

    with pytest.raises(InvalidParameter) as caught:
        HyperParameters.parse(values)

    problems = caught.value.fields["problems"]
    assert isinstance(problems, list)
    assert [problem.split()[0] for problem in problems] == [
        "hyper_parameters.lm_step",
        "hyper_parameters.lm_num",
        "hyper_parameters.fm_num",
        "hyper_parameters.learning_rate",
    ]
    assert all(problem in caught.value.message for problem in problems)


@pytest.mark.parametrize("values", [None, [], "lm_step=1", 3])
def test_what_is_no_object_is_refused(values: object) -> None:
    with pytest.raises(InvalidParameter, match="must be an object with the fields lm_max_epoch, lm_step"):
        HyperParameters.parse(values)


def test_a_stage_gets_its_own_fields_and_a_recipe_by_size() -> None:
    hyper = HyperParameters.parse({name: index for index, name in enumerate(NAMES, start=1)})

    lm, flow = hyper.lm_stage(3_000_000, 8.0), hyper.flow_stage(3_000_000, 8.0)

    assert (lm.max_epoch, lm.step, lm.num, lm.batch_size) == (1, 2, 3, 4)
    assert (flow.max_epoch, flow.step, flow.num, flow.batch_size) == (5, 6, 7, 8)
    large_lm, large_flow = (
        hyper.lm_stage(SMALL_NETWORK_PARAMETERS, 8.0),
        hyper.flow_stage(SMALL_NETWORK_PARAMETERS, 8.0),
    )
    # all weights of a small LM move, of a large one only low-rank factors, which take more
    assert lm.learning_rate < large_lm.learning_rate
    # that of the flow takes smaller steps only because of its forty minutes
    assert flow.learning_rate == pytest.approx(large_flow.learning_rate * 23 / 40)
    assert lm.max_warmup_steps < large_lm.max_warmup_steps
    assert flow.max_warmup_steps < large_flow.max_warmup_steps


def test_what_the_platform_imports_of_training_and_datasets_needs_no_torch() -> None:
    modules = (
        "training.hyper_parameters",
        "training.checkpoints",
        "dataset.package",
        "dataset.validate",
        "dataset.batches",
    )
    code = (
        "import sys; "
        + "; ".join(f"import cosyforge.{module}" for module in modules)
        + "; print('torch' in sys.modules)"
    )

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "False"


def test_a_small_network_moves_no_further_with_much_speech_than_with_some() -> None:
    few, many = (HyperParameters.parse({**DOCUMENT_EXAMPLE, "lm_max_epoch": n, "fm_max_epoch": n}) for n in (4, 40))

    for stage in (HyperParameters.lm_stage, HyperParameters.flow_stage):
        unhindered = stage(few, 3_000_000, 5.0).learning_rate
        assert stage(many, 3_000_000, 0.5).learning_rate == unhindered
        assert stage(many, 3_000_000, 5.0).learning_rate == pytest.approx(unhindered * 23 / 200)
        assert stage(few, 3_000_000, 50.0).learning_rate == pytest.approx(unhindered * 23 / 200)
        # a large network is not ours to hold back
        assert stage(many, 3_000_000_000, 5.0).learning_rate == stage(few, 3_000_000_000, 5.0).learning_rate
