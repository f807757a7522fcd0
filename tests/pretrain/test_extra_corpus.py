"""Real recordings in every layout become shards of the corpus; what is left out is counted."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from cosyforge.audio.resample import resample
from cosyforge.audio.wav import read_wav, write_wav
from cosyforge.dataset.synthetic import read_shard, shard_listings
from cosyforge.demo_recordings import demo_recordings, pack
from cosyforge.errors import InvalidDataset, InvalidParameter
from cosyforge.evaluation.scorecard import Recording
from cosyforge.training.pretrain import extra_corpus
from cosyforge.training.pretrain.extra_corpus import (
    choose_held_out,
    find_recordings,
    held_out_speakers,
    import_recordings,
    language_of,
    spoken_text,
    trim,
)

CLIPS = demo_recordings("heldout")
Samples = npt.NDArray[np.float32]


def lay_out_package(root: Path, clips: Sequence[Recording], speakers: Sequence[str] = ()) -> Path:
    (root / "train").mkdir(parents=True)
    rows = []
    for index, clip in enumerate(clips):
        name = f"train/{index}.wav"
        write_wav(root / name, clip.samples, clip.sample_rate_hz)
        row = {"wav_fn": name, "text": clip.text}
        rows.append(row | {"speaker": speakers[index]} if speakers else row)
    write_rows(root, rows)
    return root


def write_rows(root: Path, rows: Sequence[object]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (root / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def lay_out_libritts(root: Path, clips: Sequence[Recording], speakers: Sequence[str]) -> Path:
    for index, (clip, speaker) in enumerate(zip(clips, speakers, strict=True)):
        chapter = root / "dev-clean" / speaker / "7"
        chapter.mkdir(parents=True, exist_ok=True)
        stem = f"{speaker}_7_{index:06d}_000000"
        write_wav(chapter / f"{stem}.wav", clip.samples, clip.sample_rate_hz)
        (chapter / f"{stem}.original.txt").write_text("not this one", encoding="utf-8")
        (chapter / f"{stem}.normalized.txt").write_text(clip.text + "\n", encoding="utf-8")
    return root


def listed(corpus: Path) -> list[dict[str, object]]:
    return [
        json.loads(line) for path in shard_listings(corpus) for line in path.read_text(encoding="utf-8").splitlines()
    ]


def changed(clip: Recording, samples: Samples, text: str | None = None) -> Recording:
    return Recording(samples, clip.sample_rate_hz, clip.text if text is None else text)


# --- layouts -----------------------------------------------------------------------------------------------------------------


def test_a_package_is_read_from_a_folder_and_from_its_zip_alike(tmp_path: Path) -> None:
    lay_out_package(tmp_path / "anna", CLIPS[:2])
    pack(CLIPS[:2], tmp_path / "anna.zip")
    for source in (tmp_path / "anna", tmp_path / "anna.zip"):
        found = [(r.text, r.speaker, r.language, read_wav(r.path)[0].size) for r in find_recordings(source)]
        assert found == [(clip.text, "anna", "en", clip.samples.size) for clip in CLIPS[:2]]


def test_lines_may_name_their_speakers(tmp_path: Path) -> None:
    source = lay_out_package(tmp_path / "studio", CLIPS[:3], ("ada", "bob", " "))
    assert [r.speaker for r in find_recordings(source)] == ["ada", "bob", "studio"]


def test_libritts_names_speakers_by_folder_and_prefers_the_normalized_text(tmp_path: Path) -> None:
    source = lay_out_libritts(tmp_path, CLIPS[:3], ("84", "84", "1034"))
    found = [(r.speaker, r.text) for r in find_recordings(source)]
    assert sorted(found) == sorted(
        [("libritts-84", CLIPS[0].text), ("libritts-84", CLIPS[1].text), ("libritts-1034", CLIPS[2].text)]
    )


def test_packages_side_by_side_are_one_speaker_each_and_may_stand_beside_libritts(tmp_path: Path) -> None:
    lay_out_package(tmp_path / "a", CLIPS[:1])
    lay_out_package(tmp_path / "more" / "b", CLIPS[1:2])
    pack(CLIPS[2:3], tmp_path / "c.zip")
    lay_out_libritts(tmp_path / "LibriTTS", CLIPS[3:4], ("84",))
    assert {r.speaker: r.text for r in find_recordings(tmp_path)} == {
        "a": CLIPS[0].text, "more/b": CLIPS[1].text, "c": CLIPS[2].text, "libritts-84": CLIPS[3].text
    }  # fmt: skip


def test_a_zip_that_leaves_its_folder_is_refused_by_name_before_anything_is_taken_in(tmp_path: Path) -> None:
    source, corpus = tmp_path / "source", tmp_path / "corpus"
    lay_out_package(source / "a", CLIPS[:1])
    with zipfile.ZipFile(source / "b.zip", "w") as archive:
        archive.writestr("data.jsonl", '{"wav_fn": "train/1.wav", "text": "Hi."}\n')
        archive.writestr("train/../../../escaped.wav", b"RIFF")
    with pytest.raises(InvalidDataset, match=r"b\.zip: .*'\.\.'"):
        import_recordings(source, corpus, num_processes=1)
    assert not corpus.exists()
    assert not list(tmp_path.rglob("escaped*"))


def test_a_source_without_recordings_says_which_layouts_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"data\.jsonl beside train/.*SPEAKER/CHAPTER"):
        list(find_recordings(tmp_path))


# --- import ------------------------------------------------------------------------------------------------------------------


def test_recordings_become_shards_that_the_features_are_made_of(tmp_path: Path) -> None:
    source, corpus = lay_out_package(tmp_path / "anna", CLIPS[:5]), tmp_path / "corpus"
    shares: list[float] = []
    report = import_recordings(source, corpus, num_processes=1, shard_clips=2, on_progress=shares.append)
    assert (report.num_found, report.num_kept, report.dropped) == (5, 5, {})
    assert [path.name for path in shard_listings(corpus)] == ["900.jsonl", "901.jsonl", "902.jsonl"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    read = [pair for listing in shard_listings(corpus) for pair in read_shard(listing)]
    for (clip, samples), original in zip(read, CLIPS[:5], strict=True):
        assert (clip.text, clip.speaker, clip.language, clip.phones) == (original.text, "anna", "en", ())
        wanted = resample(original.samples, original.sample_rate_hz, 16_000)
        # the speech itself is untouched: what was cut off the ends is the only difference
        place = int(np.argmax(np.correlate(wanted, samples[8000:12000], "valid")))
        np.testing.assert_allclose(samples[8000:12000], wanted[place : place + 4000], atol=2 / 32768)
    assert report.duration_s == pytest.approx(sum(clip.num_samples for clip, _ in read) / 16_000)
    assert report.duration_s_by_language == {"en": pytest.approx(report.duration_s)}
    assert not [path for path in corpus.iterdir() if path.name.startswith(".")]


def test_the_same_recordings_are_taken_in_once_whatever_they_lie_in(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    anna = lay_out_package(tmp_path / "anna", CLIPS[:3])
    import_recordings(anna, corpus, num_processes=1)
    before = listed(corpus)
    with zipfile.ZipFile(tmp_path / "again.zip", "w") as archive:
        for path in sorted(anna.rglob("*.*")):
            archive.write(path, path.relative_to(anna))
    for source in (anna, tmp_path / "again.zip"):
        report = import_recordings(source, corpus, num_processes=1)
        assert (report.num_found, report.num_kept, report.num_known, report.shards) == (3, 0, 3, ())
    assert listed(corpus) == before


def test_recordings_that_were_added_later_join_their_speaker(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    anna = lay_out_package(tmp_path / "anna", CLIPS[:2])
    import_recordings(anna, corpus, num_processes=1)
    shutil.rmtree(anna)
    lay_out_package(anna, CLIPS[:4])
    report = import_recordings(anna, corpus, num_processes=1)
    assert (report.num_known, report.num_kept) == (2, 2)
    assert [(row["speaker"], row["text"]) for row in listed(corpus)] == [("anna", clip.text) for clip in CLIPS[:4]]


def test_an_import_that_was_stopped_goes_on_to_the_same_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    lay_out_package(source / "a", CLIPS[:3])
    lay_out_package(source / "b", CLIPS[3:6])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    import_recordings(source, whole, num_processes=1, shard_clips=2)

    write_shard = extra_corpus.write_shard

    def stop_at_the_second(samples_path: Path, listing: Path, clips: list[tuple[Samples, dict[str, object]]]) -> None:
        if listing.stem == "901":
            samples_path.write_bytes(b"half of it")
            raise KeyboardInterrupt
        write_shard(samples_path, listing, clips)  # type: ignore[arg-type]

    monkeypatch.setattr(extra_corpus, "write_shard", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        import_recordings(source, stopped, num_processes=1, shard_clips=2)
    assert len(listed(stopped)) == 2
    monkeypatch.undo()
    report = import_recordings(source, stopped, num_processes=1, shard_clips=2)
    assert (report.num_found, report.num_known, report.num_kept) == (6, 2, 4)
    assert listed(stopped) == listed(whole)
    assert import_recordings(source, stopped, num_processes=1).num_known == 6


def test_whatever_is_left_out_is_counted_by_its_reason(tmp_path: Path) -> None:
    good, rate_hz = CLIPS[0], CLIPS[0].sample_rate_hz
    loud = np.clip(good.samples * 60, -1, 1)
    cases = [
        good,
        changed(good, good.samples.copy()),  # the same sound again
        changed(CLIPS[1], np.zeros(rate_hz * 2, np.float32)),
        changed(CLIPS[2], loud),
        changed(CLIPS[3], CLIPS[3].samples[rate_hz // 2 : rate_hz * 4 // 5]),
        changed(CLIPS[4], np.concatenate([clip.samples for clip in CLIPS[:10]] * 2)),
        changed(CLIPS[5], CLIPS[5].samples, "Доброе утро."),
        Recording(resample(CLIPS[6].samples, rate_hz, 8000), 8000, CLIPS[6].text),
        changed(CLIPS[7], CLIPS[7].samples, "..."),
        changed(CLIPS[8], CLIPS[8].samples),
    ]
    source = lay_out_package(tmp_path / "anna", cases)
    (source / "train" / "9.wav").write_bytes((source / "train" / "9.wav").read_bytes()[:30])
    with (source / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"wav_fn": "train/99.wav", "text": "Where am I?"}\n{"wav_fn": "train/0.wav"}\n')
    report = import_recordings(source, tmp_path / "corpus", num_processes=1)
    assert report.dropped == {
        "duplicate": 1, "silent": 1, "clipped": 1, "too-short": 1, "too-long": 1, "other-language": 1, "low-sample-rate": 1,
        "unspeakable-text": 1, "unreadable-audio": 1, "missing-file": 1, "missing-key": 1,
    }  # fmt: skip
    assert report.num_found == report.num_kept + sum(report.dropped.values()) == 12
    assert "1 unreadable-audio" in report.summary
    assert report.examples["unreadable-audio"] == ["9.wav"]
    again = import_recordings(source, tmp_path / "corpus", num_processes=1)
    assert (again.num_kept, again.num_known, again.dropped) == (0, 1, report.dropped)


def test_libritts_counts_sounds_without_text_and_texts_without_sound(tmp_path: Path) -> None:
    source = lay_out_libritts(tmp_path / "libritts", CLIPS[:3], ("84", "84", "84"))
    chapter = source / "dev-clean" / "84" / "7"
    for path in chapter.glob("84_7_000000*.txt"):
        path.unlink()
    (chapter / "84_7_000001_000000.wav").unlink()
    report = import_recordings(source, tmp_path / "corpus", num_processes=1)
    assert (report.num_found, report.num_kept, report.dropped) == (3, 1, {"no-text": 1, "missing-file": 1})


def test_shards_whose_making_is_not_known_are_not_added_to(tmp_path: Path) -> None:
    source, corpus = lay_out_package(tmp_path / "anna", CLIPS[:1]), tmp_path / "corpus"
    import_recordings(source, corpus, num_processes=1)
    (corpus / "extra.json").unlink()
    with pytest.raises(InvalidParameter, match="shard 900"):
        import_recordings(source, corpus, num_processes=1)


# --- one recording -----------------------------------------------------------------------------------------------------------


def test_silence_at_the_ends_is_cut_and_the_speech_stays() -> None:
    speech = resample(CLIPS[0].samples, CLIPS[0].sample_rate_hz, 16_000)
    core = trim(speech)
    rng = np.random.default_rng(0)
    hiss = (1e-3 * rng.standard_normal(32_000)).astype(np.float32)
    trimmed = trim(np.concatenate([hiss, core, hiss]))
    assert abs(len(trimmed) - len(core)) < 0.5 * 16_000
    place = int(np.argmax(np.correlate(trimmed, core[4000:8000], "valid")))
    np.testing.assert_array_equal(trimmed[place : place + len(core) - 4000 - 4000], core[4000 : len(core) - 4000])


@pytest.mark.parametrize(
    ("text", "language", "spoken"),
    [
        ("Dr. Smith paid $5 on May 3.", "en", "Doctor Smith paid five dollars on May third."),
        ("It's the Zyzzqx!", "en", "It's the Zyzzqx!"),
        ("我有3个苹果，今天去Tom家。", "zh", "我有三个苹果，今天去Tom家。"),
    ],
)
def test_texts_are_kept_with_their_numbers_in_words(text: str, language: str, spoken: str) -> None:
    assert language_of(text) == language
    assert spoken_text(text, language) == spoken
    assert spoken_text(spoken, language) == spoken


def test_a_long_sentence_gets_no_stop_inside() -> None:
    text = "and then we walked " * 40 + "home."
    assert spoken_text(text, "en") == text


# --- who is held out ---------------------------------------------------------------------------------------------------------


def test_about_every_twentieth_speaker_is_held_out() -> None:
    names = [f"libritts-{number}" for number in range(2000)]
    held_out = choose_held_out(names, (), 2000)
    assert 60 <= len(held_out) <= 140
    assert held_out == choose_held_out(reversed(names), (), 2000)


def test_of_five_speakers_one_is_held_out_and_none_that_was_trained_on_before() -> None:
    few = [name for name in map(str, range(100)) if not choose_held_out([name], (), 1)][:6]
    assert choose_held_out(few[:4], (), 4) == []
    chosen = choose_held_out(few[4:], (), 6)
    assert len(chosen) == 1
    assert chosen[0] in few[4:]
    assert set(chosen) <= set(choose_held_out(["another"], chosen, 7))


def test_the_held_out_speakers_stand_beside_the_shards(tmp_path: Path) -> None:
    source, corpus = tmp_path / "source", tmp_path / "corpus"
    assert held_out_speakers(corpus) == frozenset()
    for index in range(5):
        lay_out_package(source / f"speaker {index}", CLIPS[index : index + 1])
    report = import_recordings(source, corpus, num_processes=1)
    assert report.num_speakers == 5
    assert len(held_out_speakers(corpus)) >= 1
    assert held_out_speakers(corpus) == set(report.held_out) < {row["speaker"] for row in listed(corpus)}


def test_flac_is_read_as_well_as_wav(tmp_path: Path) -> None:
    chapter = tmp_path / "84" / "7"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "a.flac", CLIPS[0].samples, CLIPS[0].sample_rate_hz)
    (chapter / "a.original.txt").write_text(CLIPS[0].text, encoding="utf-8")
    assert [(r.path.name, r.speaker) for r in find_recordings(tmp_path)] == [("a.flac", "libritts-84")]
