"""Every error a person may meet. Each message says what happened and what to do, in one sentence.

PlaygroundError
├── InvalidRequest        the request cannot run as it stands; `field` names the culprit
│   └── InvalidImage      a picture or mask that cannot be used
├── ModelUnavailable      the model is not here, not loadable, or not of this family
│   └── DownloadFailed    its weights could not be fetched; `kind` names the reason
├── QueueFull             too much is waiting; `retry_after_s` says when to come back
├── JobCancelled          somebody asked for the job to stop
├── PictureWithheld       the safety checker took every picture of the request for unsafe
├── OutputFailed          the picture was made and could not be written
└── DeviceFailure         the device could not do the work
    ├── OutOfMemory       every rung of the memory ladder was tried
    └── NonFiniteImage    the model answered NaN or infinity, also in float32
"""

from __future__ import annotations


class PlaygroundError(Exception):
    """Base of all expected errors: its text is meant to be read by the person at the page."""

    field: str | None = None


class InvalidRequest(PlaygroundError):
    """The request cannot run as it stands. `field` is the request field at fault, if one is."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidImage(InvalidRequest):
    """A picture or mask that cannot be used: not an image, damaged, or beyond a limit."""


class ModelUnavailable(PlaygroundError):
    """The model is not here, cannot be loaded, or is of a family that this program does not run."""


class DownloadFailed(ModelUnavailable):
    """Weights could not be fetched. `kind` names the reason for programs, such as "gated" or "offline"."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class QueueFull(PlaygroundError):
    """Too much is waiting. `retry_after_s`: seconds until a place is likely to be free."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class JobCancelled(PlaygroundError):
    """The job was stopped before it was finished; nothing was decoded or saved."""


class PictureWithheld(PlaygroundError):
    """The safety checker took every picture of the request for unsafe; none was saved or shown."""


class OutputFailed(PlaygroundError):
    """The picture was made and could not be written where outputs go."""


class DeviceFailure(PlaygroundError):
    """The device could not do the work."""


class OutOfMemory(DeviceFailure):
    """Memory ran out, also after every step down the ladder."""


class NonFiniteImage(DeviceFailure):
    """The model answered NaN or infinity instead of a picture, also when decoded in float32."""
