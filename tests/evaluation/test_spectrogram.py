from __future__ import annotations

import struct
from pathlib import Path

import pytest
from evaluation_clips import tone

from cosyforge.evaluation.spectrogram import PANEL_HEIGHT_PX, WIDTH_PX, Panel, _drawable, draw_spectrograms


def test_picture_is_a_png_with_one_panel_per_clip(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: eval)")
    panels = [
        Panel("a", tone(100, 1.0), 16000),
        Panel("b", tone(200, 0.5, 24000), 24000),
        Panel("c", tone(300, 1), 16000),
    ]

    draw_spectrograms(tmp_path / "x.png", panels)

    content = (tmp_path / "x.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (WIDTH_PX, 3 * PANEL_HEIGHT_PX)


def test_no_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_spectrograms(tmp_path / "x.png", [])


@pytest.mark.filterwarnings("error:Glyph")
def test_hanzi_are_drawn_as_pinyin_for_the_font_has_none(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: eval)")
    draw_spectrograms(tmp_path / "x.png", [Panel("mei, copy: 早上好，明天见。", tone(100, 1.0), 16000)])
    assert _drawable("mei, copy: 早上好，见。") == "mei, copy:  zao3 shang4 hao3, jian4."
    assert _drawable("Good morning.") == "Good morning."
