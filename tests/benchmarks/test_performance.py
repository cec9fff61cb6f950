# SPDX-License-Identifier: Apache-2.0
"""The page on performance says what the benchmarks have found."""

from benchmarks import performance


def test_the_tables_of_the_page_are_what_the_files_say():
    assert performance.PAGE.read_text() == performance.page(), "python benchmarks/performance.py was not run"
