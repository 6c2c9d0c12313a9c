"""What `import rsyscall` leaves for later is there all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rsyscall

_STAR = """
import sys
import rsyscall
assert "rsyscall.thread" not in sys.modules
assert set(rsyscall.__all__) <= set(dir(rsyscall))
from rsyscall import *
for name in rsyscall.__all__:
    assert globals()[name] is getattr(rsyscall, name), name
assert rsyscall.__dict__["Process"] is sys.modules["rsyscall.thread"].Process
"""


def test_all_names_are_there_in_a_fresh_interpreter() -> None:
    subprocess.run([sys.executable, "-c", _STAR], check=True, timeout=60)


@pytest.mark.parametrize("module", ["thread", "tasks.local", "sys.wait", "batch", "near"])
def test_any_module_may_be_the_first(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import rsyscall.{module}"], check=True, timeout=60)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'proces'"):
        getattr(rsyscall, "proces")  # noqa: B009 - the type checkers know that it is not there
