"""Errors that a user can mend. Each says what, why and how; the class decides the exit code.

EdgekdError              70  our bug, if it is ever raised bare
|- UsageError             2  the command line contradicts itself
|- InputError             3  a file that was handed in is refused
|  |- TeacherError
|  |- ProfileError
|  `- DataError
|- EnvironmentLacking     4  this machine lacks something
|- MeasurementError       5  a device did not answer, or its measurement is not valid
|- ExportError            6  a graph differs from the student
|- IntegrityError         7  a file is not the one that was packed or saved
|- TrainingError          8  the training did not hold: its numbers stopped being finite
`- Interrupted        130/143  stopped by a signal; the work so far is saved
"""

from __future__ import annotations


class EdgekdError(Exception):
    """What happened, with the cause (why), the remedy (fix) and a code that stays the same over versions."""

    exit_code = 70

    def __init__(self, what: str, *, code: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.code, self.why, self.fix = what, code, why, fix


class UsageError(EdgekdError):
    exit_code = 2


class InputError(EdgekdError):
    exit_code = 3


class TeacherError(InputError):
    pass


class ProfileError(InputError):
    pass


class DataError(InputError):
    pass


class EnvironmentLacking(EdgekdError):
    exit_code = 4


class MeasurementError(EdgekdError):
    exit_code = 5


class ExportError(EdgekdError):
    exit_code = 6


class IntegrityError(EdgekdError):
    exit_code = 7


class TrainingError(EdgekdError):
    exit_code = 8


class Interrupted(EdgekdError):
    """Ctrl-C or SIGTERM. exit_code is 128 + the signal's number."""

    def __init__(self, what: str, *, signal: int, fix: str = "") -> None:
        super().__init__(what, code="E0130", fix=fix)
        self.exit_code = 128 + signal


class StoppedAtOnce(KeyboardInterrupt):
    """A second Ctrl-C or SIGTERM. No Exception: torch's compiler, for one, would wrap it into an error of its own."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
