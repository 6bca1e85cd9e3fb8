"""The errors this package raises, in one tree.

::

    CtaiError                       anything this package raises on purpose
    ├── InputError (ValueError)     an argument, a file's content or a setting cannot be used
    │   ├── AnatomyNotFound         the slice does not show what one click needs to start from
    │   │   └── OtherRegion         the slice shows another part of the body than the abdomen
    │   └── ManifestError           a cohort's list of cases has rows that cannot be used; names every one
    ├── DicomError                  a DICOM object is damaged, or is not the object expected
    ├── GeometryError               orientation, spacing or positions contradict each other
    ├── StorageError (OSError)      something could not be written or read back; nothing was half-written
    │   └── DamagedFile             a file of ours is there and cannot be read back; it is left as it is
    ├── WeightsError                a checkpoint is missing, damaged or not the one it claims to be
    │   └── WeightsMissing          (also Unavailable) the checkpoint is not on this machine
    ├── RecordError                 an annotation record cannot be read or replayed
    └── SegmenterError              a segmenter made no prediction
        ├── Unavailable             it is not available now; another one may be
        │   ├── WeightsMissing
        │   ├── DeviceUnavailable   no such device, or out of its memory
        │   ├── ServiceUnreachable  connection refused, reset, or no such host
        │   ├── ServiceBusy         the service is busy; retry later
        │   ├── ServiceTimeout      no response before the deadline
        │   ├── ServiceFailed       (also ServiceRejected) the service failed on this request
        │   └── InvalidResponse     (also ProtocolMismatch) not the service's response, or a damaged one
        ├── ServiceRejected         the service understood the request and refused it
        └── ProtocolMismatch        client and service speak different versions

A message says what was wrong, what was received, and what to do. It never
holds a patient's name or identifier.
"""

from __future__ import annotations


class CtaiError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    problem : str
        What was wrong, as a clause without a full stop.
    received : object, optional
        What was received instead; shown with ``repr`` unless it is a string.
        Never pass anything that identifies a patient.
    hint : str, optional
        What to do about it, as a sentence.

    Examples
    --------
    >>> print(InputError("a box needs an area", received=(3, 3, 3, 9), hint="Drag it wider."))
    a box needs an area (received (3, 3, 3, 9)). Drag it wider.
    """

    def __init__(self, problem: str, *, received: object = None, hint: str | None = None) -> None:
        self.problem = problem
        self.received = received
        self.hint = hint
        # Names of files that are not UTF-8 come as lone surrogates, which no terminal and no JSON takes.
        problem = problem.encode("utf-8", "backslashreplace").decode()
        text = problem.rstrip(".")
        if received is not None:
            text += f" (received {received if isinstance(received, str) else repr(received)})"
        text += "."
        if hint:
            text += f" {hint.rstrip('.')}."
        text = text.encode("utf-8", "backslashreplace").decode()
        super().__init__(text)

    def __str__(self) -> str:
        # OSError and friends would format args themselves; the message is the same everywhere.
        return str(self.args[0]) if self.args else self.problem

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders in joblib workers; keyword arguments need help there.
        return (_rebuild, (type(self), self.problem, self.received, self.hint))


def _rebuild(cls: type[CtaiError], problem: str, received: object, hint: str | None) -> CtaiError:
    return cls(problem, received=received, hint=hint)


class InputError(CtaiError, ValueError):
    """An argument, a file's content or a setting cannot be used."""


class AnatomyNotFound(InputError):
    """The slice does not show the anatomy one click needs to start from."""


class OtherRegion(AnatomyNotFound):
    """The slice shows another part of the body than the abdomen."""


class ManifestError(InputError):
    """A cohort's list of cases has rows that cannot be used; names every one of them."""


class DicomError(CtaiError):
    """A DICOM object is damaged, or is not the object expected."""


class GeometryError(CtaiError):
    """Orientation, spacing or positions contradict each other."""


class StorageError(CtaiError, OSError):
    """Something could not be written or read back; nothing was left half-written."""


class DamagedFile(StorageError):
    """A file of ours is there and cannot be read back; it is never taken for absent, nor overwritten."""


class WeightsError(CtaiError):
    """A checkpoint is missing, damaged or not the one it claims to be."""


class RecordError(CtaiError):
    """An annotation record cannot be read or replayed."""


class SegmenterError(CtaiError):
    """A segmenter made no prediction."""


class Unavailable(SegmenterError):
    """The segmenter is not available now; another one may be."""


class WeightsMissing(WeightsError, Unavailable):
    """The checkpoint is not on this machine."""


class DeviceUnavailable(Unavailable):
    """There is no such device, or its memory is used up."""


class ServiceUnreachable(Unavailable):
    """Connection refused, reset, or no such host."""


class ServiceBusy(Unavailable):
    """The service is busy; retry later."""


class ServiceTimeout(Unavailable):
    """No response before the deadline."""


class ServiceRejected(SegmenterError):
    """The service understood the request and refused it."""


class ProtocolMismatch(SegmenterError):
    """Client and service speak different protocol versions."""


class ServiceFailed(ServiceRejected, Unavailable):
    """The service failed on this request for a reason of its own; another segmenter may succeed."""


class InvalidResponse(ProtocolMismatch, Unavailable):
    """What came back is not a response of the service, is damaged, or is out of bounds."""
