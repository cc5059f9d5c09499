"""Every error that gpu_bgstat raises on purpose. Each message says what is wrong, the value, and what to do."""


class BgstatError(Exception):
    """The common kind; the command prints its one line and exits with 1."""


class ConfigError(BgstatError, ValueError):
    """A setting is wrong in itself, or does not fit the recording (a region outside the frame)."""


class SourceError(BgstatError):
    """A recording cannot be opened or read."""


class FrameError(BgstatError, ValueError):
    """An array is not a frame: wrong shape, wrong type, or values that are no numbers."""


class TooFewSamplesError(BgstatError):
    """Fewer than two samples: there is no background."""


class DeviceError(BgstatError):
    """The device asked for is not there, or failed."""


class ScratchError(BgstatError):
    """The file that holds samples outside of memory cannot be made, written or read."""


class CheckpointError(BgstatError):
    """A checkpoint cannot be written, or is not one of this estimate."""


class OutputError(BgstatError):
    """A result could not be written; what stood there before is untouched."""


def printable(text: str) -> str:
    """One line that a terminal shows and does not obey: line breaks and other controls, as file names may hold them,
    are written as in Python ("\\n").
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
