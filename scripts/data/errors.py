# SPDX-License-Identifier: Apache-2.0
"""The one error of this package: input that cannot be used, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """Input data that cannot be used; the message names the file, what is wrong and the remedy.

    Args:
        problems: one message, or several; of several the first ten are shown, and how many there are.

    Example:
        >>> raise DataError("scan.nii.gz: 0 bytes. Copy or download it again.")
        Traceback (most recent call last):
        scripts.data.errors.DataError: scan.nii.gz: 0 bytes. Copy or download it again.
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
