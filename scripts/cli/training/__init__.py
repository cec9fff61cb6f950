# SPDX-License-Identifier: Apache-2.0
"""The commands about models: training, prediction, scores and reports."""
