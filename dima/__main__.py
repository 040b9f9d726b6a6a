"""``python -m dima`` is the command ``dima``."""

import sys

from dima.cli import main

sys.exit(main())
