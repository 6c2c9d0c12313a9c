"""The limits that HELLO negotiates."""

from __future__ import annotations

from rsyscall_protocol._constants import LIMITS
from rsyscall_protocol._record import record


@record
class Limits:
    """What both sides hold to; SPEC.md says what each one limits. Bytes or counts."""

    frame: int = LIMITS["frame"][0]
    depth: int = LIMITS["depth"][0]
    data: int = LIMITS["data"][0]
    fds: int = LIMITS["fds"][0]
    outstanding: int = LIMITS["outstanding"][0]
    window: int = LIMITS["window"][0]
    steps: int = LIMITS["steps"][0]
    programs: int = LIMITS["programs"][0]
    program_bytes: int = LIMITS["program_bytes"][0]

    def __post_init__(self) -> None:
        """Refuse what no peer could accept."""
        for name, (_, smallest, largest) in LIMITS.items():
            value = getattr(self, name)
            if not smallest <= value <= largest:
                raise ValueError(f"limit {name}={value}: not from {smallest} to {largest}")

    def clamped(self, wanted: dict[str, int]) -> Limits:
        """The smaller of these and the wanted ones; what is not named keeps its default."""
        return Limits(**{n: min(getattr(self, n), wanted.get(n, LIMITS[n][0])) for n in LIMITS})

    def as_dict(self) -> dict[str, int]:
        """By name, as HELLO carries them."""
        return {name: getattr(self, name) for name in LIMITS}
