# SPDX-License-Identifier: Apache-2.0
"""How people lay out a data set: folders, BIDS, a dataset.json, lists."""
