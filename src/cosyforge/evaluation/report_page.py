"""A report as one HTML page: tables, then the clips, worst first, to be heard and seen. Nothing is fetched, no script runs.

Everything that a person or a model wrote is escaped. Sound and pictures are in the page itself.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np

from cosyforge.audio.encode import make_encoder
from cosyforge.audio.resample import resample
from cosyforge.evaluation.clip_store import Clip
from cosyforge.evaluation.figures import StageFigures
from cosyforge.evaluation.instructed import Change
from cosyforge.evaluation.picture import PICTURE_MIME, spectrogram_webp
from cosyforge.evaluation.report import Report
from cosyforge.evaluation.stages import STAGES
from cosyforge.evaluation.yardstick import INSTRUCTED, STRESS, Outcome, Plan

_SOUND_RATE_HZ = 24000
_SHOWN_STAGES = (*STAGES, STRESS, INSTRUCTED)

_MEANING = {
    "source": "the recording itself",
    "griffin_lim": "its mel, no network",
    "vocoder": "its mel, the model's vocoder",
    "copy": "its speech tokens, flow and vocoder",
    "clone": "the text, in a voice of a few seconds of the speaker",
    "synthesis": "the text, in the voice judged",
    "stress": "sentences of 2 to 40 words",
}

_COLUMNS: Sequence[tuple[str, str, str]] = (
    ("num_clips", "clips", "d"),
    ("word_error_rate", "word errors", "%"),
    ("phone_error_rate", "phone errors", "%"),
    ("syllable_error_rate", "syllable errors", "%"),
    ("tone_error_rate", "with tones", "%"),
    ("similarity", "likeness", ".2f"),
    ("duration_ratio", "length", ".2f"),
    ("pace", "phones/s", ".1f"),
    ("median_f0_hz", "pitch Hz", ".0f"),
    ("f0_range_semitones", "range st", ".1f"),
    ("num_pauses_per_clip", "pauses", ".1f"),
    ("pause_share", "pause time", "%"),
    ("snr_db", "SNR dB", ".0f"),
    ("clipped_share", "clipped", "%"),
    ("num_swallowed", "swallowed", "d"),
    ("num_repeated", "repeated", "d"),
    ("num_runaway", "runaway", "d"),
    ("num_faults", "faults", "d"),
)

_STYLE = """
:root{color-scheme:light dark;--line:#8886;--soft:#8882;--bad:#c33}
@media (prefers-color-scheme:dark){:root{--bad:#f77}}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;max-width:80rem;background:Canvas;color:CanvasText}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem;margin-top:1.5rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--line);padding:.2rem .55rem;text-align:right;white-space:nowrap}
th{font-weight:600}th:first-child,td:first-child,td.text{text-align:left}td.text{white-space:normal;min-width:16rem}
.own{background:var(--soft);font-weight:600}.bad{color:var(--bad);font-weight:600}
article{border-top:1px solid var(--line);padding:.7rem 0}.stages{display:flex;flex-wrap:wrap;gap:.8rem}
figure{margin:0;max-width:100%}figcaption{font-size:.85rem}figure img{display:block;max-width:22rem;width:100%;height:7rem;
object-fit:fill;background:#000}audio{display:block;width:22rem;max-width:100%;height:2rem}p.heard{margin:.2rem 0}
"""


def report_page(report: Report, plan: Plan, outcome: Outcome, *, most_players: int = 12) -> str:
    """Write the page.

    most_players: of each voice so many texts can be heard, the worst ones; the others are in the table
    """
    title = f"{report.model.get('name', 'model')}: evaluation"
    body = "".join(
        [
            f"<h1>{escape(title)}</h1>",
            f"<p>Recogniser: {escape(report.recogniser)}. Model digest {escape(str(report.model.get('digest', ''))[:16])}.</p>",
            *(f"<p>{escape(note)}</p>" for note in report.notes),
            *_averages(report),
            *_voices(report),
            *_confusion(report),
            *_clones(report),
            *_stress(report),
            *_instructed(report),
            *_failures(report),
            *_clips(plan, outcome, most_players),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


# ---- tables


def _averages(report: Report) -> Iterator[str]:
    for language, stages in report.average.items():
        yield f"<h2>Mean over the voices, {_language(language)}</h2>"
        yield _stage_table({stage: figures for stage, figures in stages.items()})


def _voices(report: Report) -> Iterator[str]:
    yield "<h2>Voices</h2>"
    for voice, languages in report.voices.items():
        for language, stages in languages.items():
            yield f"<h3>{escape(voice)}, {_language(language)}</h3>"
            yield _stage_table({stage: _values(figures) for stage, figures in stages.items()})


def _stage_table(stages: Mapping[str, Mapping[str, float | None]]) -> str:
    used = [column for column in _COLUMNS if any(values.get(column[0]) is not None for values in stages.values())]
    rows = [
        [f"{stage}: {_MEANING[stage]}", *(_shown(values.get(name), form) for name, _, form in used)]
        for stage, values in stages.items()
    ]
    return _table(["stage", *(title for _, title, _ in used)], rows)


def _confusion(report: Report) -> Iterator[str]:
    if report.confusion is None:
        return
    found = report.confusion
    yield "<h2>Voices told apart</h2>"
    yield (
        f"<p>Likeness of what each voice says (row) to each voice's own reference (column). {found.num_right} of "
        f"{len(found.voices)} voices are closest to themselves; of single clips {found.clip_share:.0%} are.</p>"
    )
    head = ["says", *found.voices, "closest to", "margin", "reference"]
    yield '<div class="wide"><table>' + _row("th", head)
    for index, voice in enumerate(found.voices):
        cells = [f"<td>{escape(voice)}</td>"]
        nearest = found.closest[index]
        for column, likeness in zip(found.voices, found.matrix[index], strict=True):
            kind = ' class="own"' if column == voice else ' class="bad"' if column == nearest else ""
            cells.append(f"<td{kind}>{likeness:.2f}</td>")
        bad = "" if nearest == voice else ' class="bad"'
        cells.append(f"<td{bad}>{escape(nearest)}</td><td{bad}>{found.margin[index]:+.3f}</td>")
        cells.append(f"<td>{escape(found.reference_of[voice])}</td>")
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</table></div>"


def _clones(report: Report) -> Iterator[str]:
    if not report.clones:
        return
    yield "<h2>Clones of a few seconds</h2>"
    yield _table(
        ["speaker", "another voice", "clone", "copy", "gap closed"],
        [
            [
                name,
                _shown(each.random_voice, ".2f"),
                _shown(each.clone, ".2f"),
                _shown(each.copy, ".2f"),
                _shown(each.closed, "%"),
            ]
            for name, each in report.clones.items()
        ],
    )


def _stress(report: Report) -> Iterator[str]:
    for language, figures in report.stress.items():
        yield f"<h2>Short and long sentences, {_language(language)}</h2>"
        yield (
            f"<p>{figures.num_clips} sentences; word errors {_shown(figures.word_error_rate, '%')}, phone errors "
            f"{_shown(figures.phone_error_rate, '%')}, syllable errors {_shown(figures.syllable_error_rate, '%')}; "
            f"{figures.num_resampled} were drawn again.</p>"
        )
        yield _table(
            ["sentences", "by the ear", "by the model's own alignment"],
            [
                [kind, str(len(figures.by_ear[kind])), str(len(figures.by_alignment[kind]))]
                for kind in ("swallowed", "repeated", "runaway")
            ],
        )


def _instructed(report: Report) -> Iterator[str]:
    for language, instructions in report.instructed.items():
        yield f"<h2>As told, against the same sentences said plainly, {_language(language)}</h2>"
        rows = [
            [
                instruction,
                str(each.num_clips),
                _changed(each.length, ".2f"),
                _changed(each.pitch, "+.1f"),
                _changed(each.pitch_range, "+.1f"),
                _beside(each.word_error_rate, each.plain_word_error_rate),
                _beside(each.syllable_error_rate, each.plain_syllable_error_rate),
            ]
            for instruction, each in instructions.items()
        ]
        head = ["told", "clips", "length", "pitch st", "range st", "word errors", "syllable errors"]
        yield _table(head, rows, texts=(0,))


def _changed(change: Change | None, form: str) -> str:
    return "–" if change is None else f"{change.mean:{form}} (up in {change.up:.0%})"


def _beside(told: float | None, plain: float | None) -> str:
    return "–" if told is None else f"{_shown(told, '%')} (plainly {_shown(plain, '%')})"


def _failures(report: Report) -> Iterator[str]:
    if report.failures:
        yield f"<h2>{len(report.failures)} clips failed</h2>"
        rows = [[each.voice, each.instruction or each.stage, each.error, each.text] for each in report.failures]
        yield _table(["voice", "stage", "error", "text"], rows, texts=(2, 3))


# ---- clips


def _clips(plan: Plan, outcome: Outcome, most_players: int) -> Iterator[str]:
    owners = list(dict.fromkeys([*plan.voices, *plan.references]))
    for owner in owners:
        by_text: dict[str, list[Clip]] = {}
        for clip in _shown_clips(plan, outcome, owner):
            by_text.setdefault(clip.figures.text, []).append(clip)
        if not by_text:
            continue
        worst = sorted(by_text, key=lambda text: -_badness(by_text[text]))
        yield f"<h2>{escape(owner)}: clips, worst first</h2>"
        for text in worst[:most_players]:
            yield _article(text, by_text[text])
        if worst[most_players:]:
            yield f"<h3>{len(worst) - most_players} better ones</h3>"
            rows = [
                [text, " ".join(dict.fromkeys(c.figures.heard for c in by_text[text][-1:])), _rates(by_text[text])]
                for text in worst[most_players:]
            ]
            yield _table(["text", "heard", "errors by stage"], rows, texts=(0, 1, 2))


def _shown_clips(plan: Plan, outcome: Outcome, owner: str) -> Iterator[Clip]:
    """What a voice said, beside the copies of its reference; copies of a reference that no voice has stand alone."""
    for stage in _SHOWN_STAGES:
        if stage in ("synthesis", STRESS, INSTRUCTED):
            yield from outcome.of(owner, stage)
        elif owner in plan.reference_of:
            yield from outcome.of(plan.reference_of[owner], stage)
        elif owner in plan.references and owner not in plan.reference_of.values():
            yield from outcome.of(owner, stage)


def _badness(clips: Sequence[Clip]) -> float:
    """Of the last stage said plainly, which holds the losses of all others; what is plainly wrong comes before what was misheard."""
    said_plainly = [clip for clip in clips if not clip.instruction]
    figures = (said_plainly or clips)[-1].figures
    plain = bool(figures.fault) + bool(figures.delivery.swallowed) + bool(figures.delivery.repeated)
    return plain + figures.error_rate


def _article(text: str, clips: Sequence[Clip]) -> str:
    figures = "".join(_figure(clip) for clip in clips)
    return f'<article><strong>{escape(text) or "(no text)"}</strong><div class="stages">{figures}</div></article>'


def _figure(clip: Clip) -> str:
    figures = clip.figures
    marks = [figures.fault or ""]
    marks += ["swallowed: " + " ".join(figures.delivery.swallowed)] if figures.delivery.swallowed else []
    marks += ["repeated: " + " ".join(figures.delivery.repeated)] if figures.delivery.repeated else []
    if clip.followed is not None and (clip.followed.failed_checks or clip.followed.unspoken):
        marks.append("own alignment: " + " ".join([*clip.followed.failed_checks, *clip.followed.unspoken]))
    bad = escape("; ".join(mark for mark in marks if mark))
    caption = f"{clip.instruction or clip.stage}, {_rates([clip])}, {figures.signal.duration_s:.1f} s"
    return (
        f"<figure><figcaption>{escape(caption)}"
        + (f' <span class="bad">{bad}</span>' if bad else "")
        + f'<p class="heard">heard: {escape(figures.heard) or "(nothing)"}</p></figcaption>'
        + f'<img alt="spectrogram of {escape(clip.stage)}" src="{_data(PICTURE_MIME, _picture(clip))}">'
        + f'<audio controls preload="none" src="{_data("audio/mpeg", _sound(clip))}"></audio></figure>'
    )


def _rates(clips: Sequence[Clip]) -> str:
    parts = []
    for clip in clips:
        counts = {"phones": clip.figures.phones, "words": clip.figures.words, "syllables": clip.figures.syllables}
        rates = [f"{name} {each.rate:.0%}" for name, each in counts.items() if each and each.num_words]
        parts.append((f"{clip.stage} " if len(clips) > 1 else "") + " ".join(rates))
    return ", ".join(part for part in parts if part.strip())


def _sound(clip: Clip) -> bytes:
    encoder = make_encoder("mp3", _SOUND_RATE_HZ)
    samples = resample(clip.samples, clip.sample_rate_hz, _SOUND_RATE_HZ)
    return encoder.encode(np.ascontiguousarray(samples)) + encoder.finish()


def _picture(clip: Clip) -> bytes:
    return spectrogram_webp(clip.samples, clip.sample_rate_hz)


def _data(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


# ---- small things


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = ()) -> str:
    lines = [_row("th", head)]
    for row in rows:
        cells = [
            f'<td class="text">{escape(c)}</td>' if i in texts else f"<td>{escape(c)}</td>" for i, c in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _values(figures: StageFigures) -> dict[str, float | None]:
    return {name: getattr(figures, name) for name, _, _ in _COLUMNS}


def _shown(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    if form == "%":
        return f"{value:.1%}"
    return f"{value:g}" if form == "d" else f"{value:{form}}"


def _language(language: str) -> str:
    return {"en": "English", "zh": "Mandarin", "": "recordings without text"}.get(language, escape(language))
