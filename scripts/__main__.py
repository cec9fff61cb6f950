# SPDX-License-Identifier: Apache-2.0
"""The start of ``dualseg`` and of ``python -m scripts``."""

import os
import signal
import sys
from types import FrameType

from .errors import plain_words


def main() -> None:
    """Run the command line; Ctrl-C counts from here on, also in the seconds that its imports take."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # in a shell's background Ctrl-C is ignored, and stays so
        signal.signal(signal.SIGINT, _end)
    from .cli import COMMANDS
    from .cli import main as run

    COMMANDS.get(next(iter(sys.argv[1:]), ""))  # imports what the command needs
    signal.signal(signal.SIGINT, before)
    run()


def _end(number: int, frame: FrameType | None) -> None:
    """An exception would not do: some of what is imported swallows it, or shows its traceback and goes on."""
    os.write(2, f"\n{plain_words(KeyboardInterrupt())}\n".encode())
    os._exit(128 + number)


if __name__ == "__main__":
    main()
