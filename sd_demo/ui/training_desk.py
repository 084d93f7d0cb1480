"""One LoRA training at a time: uploads become its pictures, and any page can watch, pause or cancel it.

Its pictures lie in the data folder until its end, and longer only where there is a state to go on from another day.
"""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sd_demo.errors import InvalidRequest, OutputFailed
from sd_demo.lora_checkpoint import state_path
from sd_demo.lora_folder import SUFFIX
from sd_demo.lora_training import LoraTraining
from sd_demo.training_events import Trained
from sd_demo.training_pictures import METADATA, keep_pictures, kept_files
from sd_demo.training_request import PICTURE_SUFFIXES, parse_training
from sd_demo.ui.uploads import uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine

TIDY: Final = "tidy after a training"
_NAME: Final = re.compile(r"[\w][\w -]{0,59}")
_FILE_NAME: Final = re.compile(r"[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]{0,150}")


class TrainingDesk:
    """Where trainings are begun. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.current: LoraTraining | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a training runs or waits."""
        return self.current is not None and not self.current.is_ended

    def begin(self, files: Any, name: Any, captions: Any, options: dict[str, Any]) -> LoraTraining:
        """Start a training of the uploaded `files` (pictures, .txt and metadata.jsonl), called `name`.

        captions: a text of one line a picture, in their order, or empty. options: of LoraTrainingRequest, by name.
        Raises InvalidRequest where anything cannot be used or a training runs already; nothing is lost then.
        """
        with self._lock:
            if self.is_busy:
                raise InvalidRequest("A training runs already; wait for its end, or cancel it.")
            called = self._name(name)
            folder = self._engine.settings.data_dir / "training" / called
            output = self._engine.settings.lora_dir / f"{called}{SUFFIX}"
            if output.exists():
                raise InvalidRequest(f"There is a LoRA called {called} already; choose another name.", "name")
            fresh = folder.with_name(f".{called}")  # what an earlier try left stays until this one is accepted
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                given = _uploads(files) or (kept_files(folder) if options.get("resume") else [])
                pictures = keep_pictures(given, str(captions or ""), fresh)
                training = LoraTraining(
                    parse_training({"images": pictures, "output": output, **options}),
                    self._engine.settings,
                    registry=self._engine.registry,
                    turns=self._engine.device_turns,
                )
                shutil.rmtree(folder, ignore_errors=True)
                fresh.replace(folder)
            except OSError as error:
                raise OutputFailed(
                    f"The pictures cannot be kept in {folder} ({error.strerror}); free some space."
                ) from error
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            training.start()
            self.current = training
            threading.Thread(target=self._tidy, args=(training, folder), name=TIDY, daemon=True).start()
            return training

    @staticmethod
    def _name(name: Any) -> str:
        called = str(name or "").strip()
        if not _NAME.fullmatch(called):
            raise InvalidRequest("Give the LoRA a name of letters, digits, spaces, - or _, at most 60.", "name")
        return called

    def _tidy(self, training: LoraTraining, folder: Path) -> None:
        *_, end = training.events()
        output = training.request.output
        with self._lock:
            is_begun_again = self.current is not training and self.current and self.current.request.output == output
            if not is_begun_again and (isinstance(end, Trained) or not state_path(output).is_file()):
                shutil.rmtree(folder, ignore_errors=True)


def _uploads(files: Any) -> list[tuple[Path, str]]:
    """What was uploaded, each with the name that it had, in its order."""
    if files is not None and not isinstance(files, list):
        raise InvalidRequest("images must be uploaded files.", "images")
    taken = []
    for one in files or []:
        path = uploaded_file(one, field="images")
        if path is None:
            continue
        given = str(one.get("orig_name") or "")
        name = given if _FILE_NAME.fullmatch(given) else path.name
        if Path(name).suffix.lower() not in (*PICTURE_SUFFIXES, ".txt") and name != METADATA:
            raise InvalidRequest(f"images: {name} is no picture, .txt file or {METADATA}.", "images")
        taken.append((path, name))
    return taken
