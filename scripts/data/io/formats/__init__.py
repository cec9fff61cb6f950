# SPDX-License-Identifier: Apache-2.0
"""What each kind of file is called and looks like: HDF5, NIfTI, DICOM, text headers; and when two grids are one."""
