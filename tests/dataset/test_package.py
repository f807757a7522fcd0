"""The training zip onto disk: what is accepted, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import stat
import struct
import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest
from dataset_packages import rows, tone, wav_bytes, zipped

from cosyforge.dataset.package import PackageLimits, unpack
from cosyforge.dataset.report import report_of
from cosyforge.errors import InvalidDataset

CLIP = wav_bytes(tone())
MANIFEST = rows(("train/1.wav", "Hello."))


def refused(package: Path, tmp_path: Path, rule: str, limits: PackageLimits | None = None) -> InvalidDataset:
    """The error of a package that must be refused for this rule alone, with nothing left on the disk."""
    target = tmp_path / "work" / "data"
    with pytest.raises(InvalidDataset) as caught:
        unpack(package, target, limits)
    assert {problem.rule for problem in report_of(caught.value).errors} == {rule}
    assert list((tmp_path / "work").iterdir()) == []
    return caught.value


def with_entry(path: Path, info: zipfile.ZipInfo, content: bytes = b"x") -> Path:
    zipped(path, {"data.jsonl": MANIFEST, "train/1.wav": CLIP})
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr(info, content)
    return path


@pytest.mark.parametrize("folder", ["", "user_data/", "a/b/"])
def test_data_may_lie_at_the_top_or_in_a_folder(folder: str, tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {f"{folder}data.jsonl": MANIFEST, f"{folder}train/1.wav": CLIP})

    root = unpack(package, tmp_path / "data")

    assert (root / "data.jsonl").read_bytes() == MANIFEST
    assert (root / "train/1.wav").read_bytes() == CLIP


def test_the_shallowest_manifest_wins(tmp_path: Path) -> None:
    files = {"u/data.jsonl": MANIFEST, "u/train/1.wav": CLIP, "u/old/data.jsonl": b"{}", "u/old/train/2.wav": CLIP}

    root = unpack(zipped(tmp_path / "p.zip", files), tmp_path / "data")

    assert sorted(str(path.relative_to(root)) for path in root.rglob("*.*")) == ["data.jsonl", "train/1.wav"]


def test_two_manifests_side_by_side_are_refused(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"a/data.jsonl": MANIFEST, "b/data.jsonl": MANIFEST})

    assert "a/data.jsonl, b/data.jsonl" in refused(package, tmp_path, "many-manifests").message


def test_clutter_of_operating_systems_is_ignored(tmp_path: Path) -> None:
    clutter = dict.fromkeys(
        ("__MACOSX/u/._data.jsonl", "__MACOSX/data.jsonl", "u/.DS_Store", "u/train/._1.wav", "u/train/Thumbs.db"), b"x"
    )
    package = zipped(
        tmp_path / "p.zip", {"u/data.jsonl": MANIFEST, "u/train/1.wav": CLIP, **clutter, "readme.md": b"x"}
    )

    root = unpack(package, tmp_path / "data")

    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["1.wav", "data.jsonl"]


def test_a_package_without_manifest_says_what_it_found_instead(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"metadata.csv": b"x", "train/1.wav": CLIP})

    message = refused(package, tmp_path, "no-manifest").message

    assert "metadata.csv" in message
    assert "train/" in message


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("../evil.wav", "zip-path-traversal"),
        ("train/../../evil.wav", "zip-path-traversal"),
        ("train\\..\\..\\evil.wav", "zip-path-traversal"),
        ("/etc/evil.wav", "zip-absolute-path"),
        ("C:/evil.wav", "zip-absolute-path"),
        ("C:\\evil.wav", "zip-absolute-path"),
        ("train//evil.wav", "zip-bad-name"),
        ("train/e\nvil.wav", "zip-bad-name"),
        (f"train/{'x' * 300}.wav", "zip-bad-name"),
    ],
)
def test_a_name_that_leaves_its_place_is_refused(name: str, rule: str, tmp_path: Path) -> None:
    package = with_entry(tmp_path / "p.zip", zipfile.ZipInfo(name))

    refused(package, tmp_path, rule)

    assert not (tmp_path / "evil.wav").exists()


@pytest.mark.parametrize(
    ("mode", "rule"), [(stat.S_IFLNK | 0o777, "zip-symlink"), (stat.S_IFIFO | 0o644, "zip-special-file")]
)
def test_links_and_special_files_are_refused(mode: int, rule: str, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("train/link.wav")
    info.external_attr = mode << 16

    refused(with_entry(tmp_path / "p.zip", info, b"/etc/passwd"), tmp_path, rule)


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST})
    content = bytearray(package.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    package.write_bytes(content)

    refused(package, tmp_path, "zip-encrypted")


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    package = with_entry(tmp_path / "p.zip", zipfile.ZipInfo("train/1.wav"))

    assert "occurs 2 times" in refused(package, tmp_path, "zip-duplicate-name").message


def test_names_that_differ_only_in_unicode_form_are_one(tmp_path: Path) -> None:
    composed, decomposed = "train/é.wav", unicodedata.normalize("NFD", "train/é.wav")
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST, composed: CLIP, decomposed: CLIP})

    refused(package, tmp_path, "zip-duplicate-name")


def test_every_bad_entry_is_named_at_once(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"../a": b"", "/b": b"", "data.jsonl": MANIFEST, "train/../../c": b""})

    with pytest.raises(InvalidDataset) as caught:
        unpack(package, tmp_path / "data")

    assert [problem.file for problem in report_of(caught.value).errors] == ["../a", "/b", "train/../../c"]


def test_names_written_by_a_chinese_windows_are_read(tmp_path: Path) -> None:
    name = "train/录音.wav"
    package = zipped(tmp_path / "p.zip", {"data.jsonl": rows((name, "你好")), "train/ABCDEF.wav": CLIP})
    raw = name.encode("gb18030")
    assert len(raw) < len("train/ABCDEF.wav")
    replacement = raw[:-4] + b"1" * (len("train/ABCDEF.wav") - len(raw)) + raw[-4:]
    package.write_bytes(package.read_bytes().replace(b"train/ABCDEF.wav", replacement))

    root = unpack(package, tmp_path / "data")

    assert [path.name for path in (root / "train").iterdir()] == ["录音11.wav"]


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST, "train/1.wav": bytes(2_000_000)})

    refused(package, tmp_path, "zip-bomb", PackageLimits(ratio_free_bytes=1_000_000))
    refused(package, tmp_path, "zip-too-large", PackageLimits(max_total_bytes=1_000_000))
    refused(package, tmp_path, "zip-too-many-entries", PackageLimits(max_entries=1))
    refused(package, tmp_path, "manifest-too-large", PackageLimits(max_manifest_bytes=10))


def test_silence_of_an_honest_size_is_no_bomb(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST, "train/1.wav": bytes(2_000_000)})

    assert unpack(package, tmp_path / "data").is_dir()


def test_an_entry_that_holds_more_than_it_claims_is_refused(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST, "train/1.wav": bytes(100_000)})
    content = bytearray(package.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.rindex(signature) + offset
        content[place : place + 4] = struct.pack("<I", 10)
    package.write_bytes(content)

    refused(package, tmp_path, "zip-damaged")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"Rar!\x1a\x07\x00" + bytes(50)])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    package = tmp_path / "p.zip"
    package.write_bytes(content)

    refused(package, tmp_path, "zip-unreadable")


def test_an_upload_that_broke_off_is_refused(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST, "train/1.wav": CLIP})
    package.write_bytes(package.read_bytes()[:-40])

    refused(package, tmp_path, "zip-unreadable")


def test_damaged_content_is_refused_with_its_name(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST, "train/1.wav": CLIP})
    content = bytearray(package.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    package.write_bytes(content)

    assert "train/1.wav" in refused(package, tmp_path, "zip-damaged").message


def test_an_existing_folder_is_never_mixed_with_a_package(tmp_path: Path) -> None:
    package = zipped(tmp_path / "p.zip", {"data.jsonl": MANIFEST})
    (tmp_path / "data").mkdir()

    with pytest.raises(FileExistsError, match="exists already"):
        unpack(package, tmp_path / "data")
