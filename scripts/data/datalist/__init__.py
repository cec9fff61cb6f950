# SPDX-License-Identifier: Apache-2.0
"""The datalist: read, made from a folder, checked, and the files that it and a user name."""
