# SPDX-License-Identifier: Apache-2.0
"""``python -m monai.bundle`` without a traceback when Ctrl-C comes while MONAI is imported; run by its path.

Until the config calls ``report_data_errors_briefly``, Ctrl-C ends the process as the system does it, in silence: the
command that has started it says what to do.
"""

import signal

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in a shell's background Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import runpy

    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
