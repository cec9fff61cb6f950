# SPDX-License-Identifier: Apache-2.0
"""The one error of this package: input that cannot be used, what to do about it, and how a user gets to see it.

What the machine does to a program (no memory, no disk, a file that has gone) is told in a sentence, too.
"""

from __future__ import annotations

import errno
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

__all__ = ["DataError", "plain_words", "report_data_errors_briefly"]


class DataError(ValueError):
    """Input data that cannot be used; the message names the file, what is wrong and the remedy.

    Args:
        problems: one message, or several; of several the first ten are shown, and how many there are.

    Example:
        >>> raise DataError("scan.nii.gz: 0 bytes. Copy or download it again.")
        Traceback (most recent call last):
        scripts.errors.DataError: scan.nii.gz: 0 bytes. Copy or download it again.
    """

    SHOWN = 10

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__(self._text())

    def _text(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        shown = "\n".join(f"  {problem}" for problem in self.problems[: self.SHOWN])
        rest = len(self.problems) - self.SHOWN
        return f"{len(self.problems)} problems:\n{shown}" + (f"\n  ... and {rest} more" if rest > 0 else "")

    def __reduce__(self):
        return type(self), (self.problems,)


def report_data_errors_briefly() -> None:
    """Let an uncaught :class:`DataError` end the process with its message alone, also when MONAI has wrapped it (ours).

    MONAI's config parser turns every error into "Failed to instantiate ..." below pages of traceback. The same holds
    for what the machine does (:func:`plain_words`). Exit status stays 1; programs that catch exceptions see no
    difference, and any other error keeps its traceback.
    """
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # the commands leave it so while MONAI is imported
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if getattr(sys.excepthook, "__name__", "") != _show_briefly.__name__:
        previous = sys.excepthook
        sys.excepthook = lambda *error: _show_briefly(*error, previous)
        sys.excepthook.__name__ = _show_briefly.__name__
        otherwise = sys.unraisablehook
        sys.unraisablehook = lambda error: _pass_over_dead_workers(error, otherwise)


def plain_words(error: BaseException) -> str | None:
    """A sentence on an error that the machine has caused, with the remedy; None for any other error (ours).

    Known are: too little memory or disk, a file that has gone or may not be read, a process or a GPU that has died,
    Ctrl-C.

    Args:
        error: of it and of what caused it the first known one counts.

    Example:
        >>> plain_words(FileNotFoundError(2, "No such file or directory", "scan.nii.gz"))
        'scan.nii.gz: No such file or directory. Put it back, then start again.'
    """
    for one in _chain(error):
        text = str(one)
        if isinstance(one, KeyboardInterrupt):
            return "Interrupted. The same command starts again, a training from its last checkpoint."
        if isinstance(one, MemoryError) or type(one).__name__ == "OutOfMemoryError" or NO_MEMORY.search(text):
            return (
                "Not enough memory. Use a smaller batch_size, patch_size or base_channels, or cache disk; a training "
                "that had begun still has its last checkpoint."
            )
        if isinstance(one, OSError) and (one.errno in DISK or isinstance(one, FileNotFoundError | PermissionError)):
            cause = f"{one.filename}: {one.strerror}" if one.filename and one.strerror else text.rstrip(".")
            return f"{cause}. {DISK.get(one.errno, 'Put it back, then start again.')}"
        if match := NO_READER.search(text):
            return f"{match[1]}: cannot be read any more. Put it back, then start again."
        if isinstance(one, RuntimeError) and OTHER_NETWORKS.search(text):
            return (
                "The weights are of other networks than the config describes. Use the run's own config or inference."
                "json, or the base_channels, stem_stride, strides, norm and labels that they were trained with."
            )
        if isinstance(one, RuntimeError) and DEAD_PROCESS.search(text):
            return (
                "Another process of this job has died or hangs; its own message says why. Start the job again: a "
                "training goes on from its last checkpoint."
            )
        if DEAD_WORKER.search(text):
            return (
                "A process that loads data has died, often for lack of memory. Use fewer num_workers, then start again."
            )
        if NO_GPU.search(text):
            return (
                f"There is no such device here ({text.splitlines()[0].rstrip('.')}). Use --device cpu, or a GPU it has."
            )
        if isinstance(one, RuntimeError) and DEAD_GPU.search(text):
            line = text.splitlines()[0]
            return f"The GPU has failed ({line}). Look after it, then start again; the last checkpoint is intact."
    return None


DISK = {
    errno.ENOSPC: "Make room, then start again.",
    errno.EDQUOT: "Make room, then start again.",
    errno.EROFS: "Name a folder that can be written to.",
    errno.EACCES: "Ask for the right to it, then start again.",
    errno.EIO: "The disk has failed; look after it, then start again.",
    errno.ESTALE: "The network drive has gone; start again when it is back.",
}
NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|Cannot allocate memory|CUDA out of memory|bad_alloc|start new thread"
    r"|could not create a (primitive|memory object)"  # oneDNN, which says no more
)
NO_READER = re.compile(r"cannot find a suitable reader for file: (\S+)")
OTHER_NETWORKS = re.compile(r"loading state_dict for")
DEAD_PROCESS = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe.*gloo|gloo.*(Timed out|timed out)|NCCL.*(timed out|remote process)"
    r"|Timed out (waiting|after)|failed to (send|recv)"
)
DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|killed by signal)")
NO_GPU = re.compile(
    r"not compiled with CUDA enabled|No CUDA GPUs are available|Found no NVIDIA driver|invalid device ordinal"
    r"|^Expected one of cpu, cuda|^Invalid device string"
)
DEAD_GPU = re.compile(r"CUDA error|CUDA driver error|NCCL error|cuDNN error")


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _pass_over_dead_workers(error: sys.UnraisableHookArgs, otherwise: Callable[[sys.UnraisableHookArgs], Any]) -> None:
    """The death of a loader's process is no news while the loader is cleared away: who waits for its batch tells it."""
    if not DEAD_WORKER.search(str(error.exc_value)):
        otherwise(error)


def _show_briefly(kind: type, error: BaseException, trace: TracebackType | None, otherwise) -> None:
    message = next((str(cause) for cause in _chain(error) if isinstance(cause, DataError)), None) or plain_words(error)
    if message is None:
        otherwise(kind, error, trace)
    else:
        sys.stderr.write(f"Error: {message}\n")
