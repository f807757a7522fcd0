"""The work directory of a training run: what it has ready, where it lies, and what of it can be trusted after a crash.

A part is settled when its marker is on the disk, and the marker is written when the part is. The package is used again
only if settled. Features are used clip by clip; those that are not settled only while the machine has not started anew,
because what it had not yet written then may be there in name alone. States and epochs are on the disk before their names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosyforge.cosyvoice.manifest import file_digest
from cosyforge.cosyvoice.model import Voice
from cosyforge.cosyvoice.weights import write_voices
from cosyforge.training.combine import VOICE, RunFacts
from cosyforge.training.hyper_parameters import HyperParameters
from cosyforge.training.state import explained_write, sync_directory, sync_file_system

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNPACKED = ("data", "validation")


@contextlib.contextmanager
def work_directory_of(directory: Path | None, identity: str) -> Iterator[WorkDirectory]:
    """The work directory of one run, cleared of halves; a temporary one when none is given.

    identity: leftovers of a run with another identity are never used
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="cosyforge-") as temporary:
            yield WorkDirectory(Path(temporary))
    else:
        work = WorkDirectory(directory / identity)
        work.clear_halves()
        yield work


@dataclass(frozen=True)
class WorkDirectory:
    path: Path

    def state(self, stage: str) -> Path:
        return self.path / stage / "state.safetensors"

    def epoch_file(self, stage: str, epoch: int) -> Path:
        """Where the trained weights of an epoch are, if it is one that a checkpoint needs."""
        return self.path / stage / f"epoch-{epoch:04d}.safetensors"

    @property
    def voice(self) -> Path:
        return self.path / "voice.safetensors"

    def is_settled(self, part: str) -> bool:
        return self._marker(part).exists()

    def settle(self, part: str) -> None:
        """This part is complete and stays so, whatever happens to the machine.

        Raises: OutOfSpace, Internal
        """
        with explained_write(self.path / part):
            sync_file_system(self.path)
            self._marker(part).touch()
            sync_directory(self.path)

    def count_features(self) -> int:
        return sum(1 for _ in (self.path / "features").rglob("*.safetensors"))

    def keep_voice(self, voice: Voice, facts: RunFacts) -> None:
        """What checkpoints need besides the trained weights, so that they can be made without a model in memory."""
        with explained_write(self.voice):
            digest = write_voices(self.voice, {VOICE: voice})
            values = {
                "voice_sha256": digest,
                "prompt_text": voice.prompt_text,
                "num_clips": facts.num_clips,
                "total_seconds": facts.total_seconds,
            }
            self._facts.write_text(json.dumps(values), encoding="utf-8")
            sync_file_system(self.path)

    def read_facts(self, hyper: HyperParameters, identity: str) -> RunFacts | None:
        """What `keep_voice` kept; None when the run did not come so far."""
        try:
            values = json.loads(self._facts.read_text(encoding="utf-8"))
            if file_digest(self.voice) != values["voice_sha256"]:
                return None
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return RunFacts(hyper, values["num_clips"], values["total_seconds"], identity)

    def read_prompt_text(self) -> str | None:
        """The transcript of the voice that `keep_voice` kept."""
        prompt_text: str | None = json.loads(self._facts.read_text(encoding="utf-8"))["prompt_text"]
        return prompt_text

    def clear_halves(self) -> None:
        """Remove what a killed run or a fallen machine left unfinished."""
        self.path.mkdir(parents=True, exist_ok=True)
        for part in _UNPACKED:
            if not self.is_settled(part):
                shutil.rmtree(self.path / part, ignore_errors=True)
        for pattern in (".*", "lm/.*", "flow/.*", "features/*/.*"):
            for leftover in self.path.glob(pattern):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not self.is_settled("features") and self._is_other_boot():
            shutil.rmtree(self.path / "features", ignore_errors=True)

    def _is_other_boot(self) -> bool:
        """The machine has started anew since the last run here; False where it cannot be known."""
        if not _BOOT_ID.exists():
            return False
        boot_id, noted = _BOOT_ID.read_text(), self.path / "boot"
        is_other = noted.exists() and noted.read_text() != boot_id
        temporary = self.path / ".boot"
        temporary.write_text(boot_id)
        os.replace(temporary, noted)
        return is_other

    @property
    def _facts(self) -> Path:
        return self.path / "facts.json"

    def _marker(self, part: str) -> Path:
        return self.path / f"{part}.settled"
