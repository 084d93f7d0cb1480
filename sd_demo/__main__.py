"""`python -m sd_demo`: see sd_demo/cli/."""

import os
import sys
import threading

from sd_demo.cli import main

code = main()
if threading.active_count() > 1:
    # A job that was stopped in a long device call: its thread makes the interpreter's own end abort now and then.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
