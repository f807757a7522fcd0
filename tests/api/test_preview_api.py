"""The preview shows the words of every sentence before anything is spoken, and exactly what the model gets."""

import json
import random
import shutil

import pytest

from cosyforge.cosyvoice.manifest import builtin_model_directory
from cosyforge.synthesis.request import SynthesisRequest
from fakes import assert_error
from random_texts import random_text
from seeded_platform import open_world, seed

PATH = "/platform/v1/preview"
OFFICIAL = {"languages": ["zh", "en"], "english": "text", "prefix": "You are a helpful assistant.<|endofprompt|>"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The base is the built-in model's front end; the seeded model of the workspace alpha has its own, for Mandarin."""
    directory = tmp_path_factory.mktemp("preview")
    base = directory / "nano"
    base.mkdir()
    shutil.copy(builtin_model_directory() / "model.json", base)
    world = open_world(directory, base_model_dir=base)
    seed(world)
    (model,) = world.platform.settings.data_dir.glob("models/*/*/model.json")
    model.write_text(json.dumps({**json.loads(model.read_text()), "frontend": OFFICIAL}))
    yield world
    world.close()


def preview(world, **body):
    answer = world.client(world.keys["own"]).post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["output"]


def test_numbers_formulas_and_pauses_are_shown_per_segment(world):
    shown = preview(world, text="It costs $5.50 today. Let $x^2$ be 4, my friend.")
    assert shown["characters"] == 48
    assert shown["languages"] == ["en", "zh"]
    first, second = shown["segments"]
    assert first == {
        "index": 0,
        "text": "It costs $5.50 today.",
        "begin_index": 0,
        "end_index": 21,
        "language": "en",
        "words": "It costs five dollars and fifty cents today.",
        "tokens": first["tokens"],
        "pause_ms": 150,
        "readings": [{"text": "$5.50", "words": "five dollars and fifty cents"}],
    }
    assert first["tokens"].startswith("[IH][T] [K][AA][S][T][S] [F][AY][V]")
    assert second["readings"] == [{"text": "$x^2$", "words": "x squared"}, {"text": "4", "words": "four"}]
    assert shown["warnings"] == []


def test_a_model_has_its_own_front_end_and_need_not_be_deployed(world):
    shown = preview(world, model=world.ids["model"], text="今天是5月5日，重庆很热😀", hot_fix={
        "pronunciation": [{"重庆": "chong2 qing4"}], "replace": [{"很热": "30°C"}],
    })  # fmt: skip
    (segment,) = shown["segments"]
    assert segment["words"] == segment["tokens"] == "今天是五月五日，[ch][óng][q][ìng]三十摄氏度。"
    assert shown["prefix"] == OFFICIAL["prefix"]
    assert any("U+1F600" in warning for warning in shown["warnings"])


def test_ssml_is_shown_as_what_it_becomes(world):
    text = '<speak rate="1.5">One <sub alias="World Wide Web">W3</sub><break time="2s"/>two</speak>'
    shown = preview(world, text=text, enable_ssml=True)
    assert [(part["words"], part["pause_ms"], part["rate"]) for part in shown["segments"]] == [
        ("One World Wide Web.", 2000, 1.5),
        ("two.", 0, 1.5),
    ]
    assert shown["characters"] == len("One W3two")


def test_a_short_text_may_be_asked_for_by_get(world):
    query = {"text": "**Hi** W3C", "enable_markdown_filter": "true", "hot_fix": '{"replace": [{"W3C": "web group"}]}'}
    answer = world.client(world.keys["own"]).get(PATH, params=query)
    assert answer.json()["output"]["segments"][0]["words"] == "Hi web group."


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"text": ""}, "Please ensure input text is valid."),
        ({"text": "😀"}, "Please ensure input text is valid."),
        ({}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a" * 20_001}, "20000"),
        ({"text": "hi", "language_hints": ["xx"]}, "'xx'"),
        ({"text": "hi", "hot_fix": {"pronunciation": [{"tomato": "QQ"}]}}, "tomato"),
        ({"text": "hi", "hot_fix": {"replace": 5}}, "hot_fix.replace"),
        ({"text": "<speak><b/></speak>", "enable_ssml": True}, "line 1, column 8"),
        ({"text": "hi", "voice": "nobody"}, "418"),
    ],
)
def test_what_cannot_be_previewed_is_refused_as_speaking_would_refuse_it(world, body, part):
    assert_error(world.client(world.keys["own"]).post(PATH, json=body), 400, "InvalidParameter", part)


def test_bad_json_in_a_query_is_named(world):
    answer = world.client(world.keys["own"]).get(PATH, params={"text": "hi", "hot_fix": "{"})
    assert_error(answer, 400, "InvalidParameter", "hot_fix")


def test_models_of_other_workspaces_are_unknown_and_a_key_is_needed(world):
    body = {"text": "hello", "model": world.ids["model"]}
    assert_error(world.client().post(PATH, json=body), 404, "ModelNotFound")
    assert_error(world.client().post(PATH, json={**body, "model": "nothing"}), 404, "ModelNotFound")
    assert_error(world.client(None).post(PATH, json=body), 401, "InvalidApiKey")


def test_the_preview_equals_what_the_model_gets(world):
    from cosyforge.synthesis.engine import Engine
    from cosyforge.synthesis.incoming import arriving_segments
    from cosyforge.synthesis.sequence import Sequence

    engine = Engine(builtin_model_directory(), num_threads=1)
    chance = random.Random(5)
    num_compared = 0
    client = world.client(world.keys["own"])
    for _ in range(150):
        body = {"text": random_text(chance), "enable_markdown_filter": chance.random() < 0.5}
        answer = client.post(PATH, json=body)
        if answer.status_code == 400:
            continue
        shown = answer.json()["output"]["segments"]
        request = SynthesisRequest(voice="lena", markdown_filter=body["enable_markdown_filter"])
        spoken = [
            segment.spoken for segment, _ in arriving_segments(engine._frontend, Sequence(request), [body["text"]])
        ]
        assert [segment["tokens"] for segment in shown] == spoken
        num_compared += 1
    assert num_compared > 50
