"""`python -m rsyscall.cli`."""

import sys

from rsyscall.cli import main

sys.exit(main())
