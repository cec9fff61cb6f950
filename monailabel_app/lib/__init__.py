# SPDX-License-Identifier: Apache-2.0
"""Tasks of the MONAI Label app; MONAI Label puts the app's folder on the path, so they are imported as ``lib``."""
