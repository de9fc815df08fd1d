"""The errors that a user can cause, each with a message that fits on one line and says what to do next.

FextError
├── SettingsError            a setting is unknown, of the wrong type or out of range
├── UsageError               a command was given words it does not know what to do with
├── SourceError              a folder or list of images is missing, empty or unreadable
│   └── TooFewImagesError    there are images, but not enough good ones
├── ImageRejected            one image cannot be used; jobs count it and go on
│   └── TooLittleMemory      at the moment; the image itself may be good
├── ModelError               an architecture cannot be built as asked
├── DeviceError              the asked device or precision is not there
├── ReaderDiedError          a process that reads images died
├── OutOfMemoryError         the memory of the machine or of a GPU has ended
├── ProcessGroupError        another process of the same run cannot be reached
├── CheckpointError          a checkpoint is missing, damaged, of a later version, or its name is taken
├── ExtractionError          an extraction is missing, unfinished, damaged, too small, or cannot be made as asked
│   └── OtherWayError        its rows were computed in another way than new ones would be
├── ClassifierError          a classifier is missing, damaged, of a later version, or its name is taken
├── TrackingError            what TensorBoard shows cannot be written
└── TrainingError            training cannot go on, such as a loss that is not finite
    └── UnreadableImageError an image of the split can no longer be used

Whatever else is raised is a fault of FeXT: the screen shows one line and the path of the log with the traceback. But
memory may end anywhere, in whatever library: `is_out_of_memory` knows such an error.
"""

import errno

NOT_ENOUGH_MEMORY = "not enough memory"
OUT_OF_MEMORY = (
    "memory has ended: what was finished is kept; set num_processors, inference_batch_size, batch_size or explore_grid "
    "lower, or close other programs, and start again"
)

# How torch, oneDNN, CUDA, cuBLAS, OpenVINO, FAISS, C++, image libraries and the system say it.
_NO_MEMORY = (
    NOT_ENOUGH_MEMORY, "out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate",
    "bad_alloc", "bad allocation", "alloc_failed", "insufficient memory", "memory allocation", "failed to map segment",
    "can't start new thread", "resource temporarily unavailable", "paging file is too small",
    "pyobject pointer is null", "could not create a primitive",
)  # fmt: skip
_WINDOWS_NO_MEMORY = (8, 14, 1455)  # not enough, none left, the paging file is too small


class FextError(Exception):
    """A problem that the user can mend; its text is shown to the user as it stands."""


class SettingsError(FextError):
    """A setting is unknown, of the wrong type or out of range."""


class UsageError(FextError):
    """A command was given words it does not know what to do with."""


class SourceError(FextError):
    """A folder or list of images is missing, empty or unreadable."""


class TooFewImagesError(SourceError):
    """There are images, but not enough good ones for what was asked."""


class ImageRejected(FextError):
    """One image cannot be used; its text is the reason written to the list of rejected images."""


class TooLittleMemory(ImageRejected):
    """One image cannot be used at the moment; another time, or on another machine, it may be."""


class ModelError(FextError):
    """An architecture cannot be built as asked."""


class DeviceError(FextError):
    """The asked device or precision is not available on this machine."""


class ReaderDiedError(FextError):
    """A process that reads images died."""


class OutOfMemoryError(FextError):
    """Memory has ended, that of the machine or of a GPU; what was finished is kept."""


class ProcessGroupError(FextError):
    """Another process of the same run cannot be reached."""


class CheckpointError(FextError):
    """A checkpoint is missing, damaged, of a later version, or its name is taken."""


class ExtractionError(FextError):
    """An extraction is missing, unfinished, damaged, too small for what is asked, or cannot be made as asked."""


class OtherWayError(ExtractionError):
    """The rows of an extraction were computed in another way than this machine would compute new ones.

    `what` says how, and the text which options of the command line there are.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}: {advice}")
        self.what = what


class ClassifierError(FextError):
    """A classifier is missing, damaged, of a later version, or its name is taken."""


class TrackingError(FextError):
    """What TensorBoard shows of a run cannot be written."""


class TrainingError(FextError):
    """Training cannot go on."""


class UnreadableImageError(TrainingError):
    """An image of the split can no longer be used; the job, which knows its name, words the message."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that there was no memory, or none for another thread or process."""
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:  # its text has names of files
        return error.errno == errno.ENOMEM or getattr(error, "winerror", None) in _WINDOWS_NO_MEMORY
    if isinstance(error, FextError):
        return False
    # oneDNN cannot describe what the processor cannot compute, which is another matter.
    text = str(error).lower().replace("primitive descriptor", "description")
    said = any(words in text for words in _NO_MEMORY)
    return said or (error.__cause__ is not None and is_out_of_memory(error.__cause__))
