"""`python -m sd_demo`: see sd_demo/cli/."""

import sys

from sd_demo.cli import main

sys.exit(main())
