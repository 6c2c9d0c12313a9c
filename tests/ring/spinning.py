"""How long a client spins, where a test must know."""

from __future__ import annotations

import pytest

from rsyscall.sysif.remote import RemoteSyscallInterface


def spin_for(sysif: RemoteSyscallInterface, us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the client spin so long, however many CPUs there are."""
    ring = sysif._ring  # pyright: ignore[reportPrivateUsage]
    assert ring is not None
    ring.spin_us = us
    monkeypatch.setattr("rsyscall.sysif.requests.spin_us", lambda: us)
