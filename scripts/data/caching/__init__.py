# SPDX-License-Identifier: Apache-2.0
"""Where the scans of a stream are kept on the working grid, so that a crop need not read and resample its scan."""
