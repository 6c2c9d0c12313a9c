"""What a shell on another machine is told, so that it becomes our stub.

The login shell there may be any: it is given one line, `exec sh -c '...'`, in which there is
neither a quote nor a backslash nor anything else that some shell reads in its own way. The script
itself is for any POSIX sh (dash, busybox, bash).

It says what it does in lines that begin with a mark that nothing else there can know, whatever a
start-up file of the shell prints besides:

    MARK arch Linux NAME x86_64    what the machine is
    MARK send                      the stub is not there yet: exactly its bytes are awaited
    MARK damaged                   other bytes have come; the end
    MARK noexec DIRECTORY...       nothing can be executed in any of these; the end
    MARK ready socket|pipes        the next bytes are read by the stub, from either
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
import zlib
from dataclasses import dataclass

__all__ = ["Image", "command_line", "new_mark"]

#: By e_machine of ELF, what uname -m says.
_NAMES = {3: "i686", 8: "mips", 21: "ppc64le", 22: "s390x", 40: "armv7l", 62: "x86_64"}
_MACHINES = {**_NAMES, 183: "aarch64", 243: "riscv64", 258: "loongarch64"}

#: The number of the stub's socket, or of the pipe that it reads; the next is the one it writes.
#: What it prints goes to standard error, where ssh shows it; from standard input nothing can be
#: read.
_SERVE = "--fd 3 3<&0 4>&1 </dev/null >&2"

_SCRIPT = """
m=@MARK@; o="$(umask)"; umask 077;
say() { echo "$m $*"; };
sum() { if command -v sha256sum >/dev/null 2>&1; then sha256sum; else cksum; fi; };
same() { case "$(sum <"$1")" in "@SHA256@ "*|"@CKSUM@"|"@CKSUM@ "*) ;; *) false;; esac; };
runs() { "$1" --version </dev/null >/dev/null 2>&1; };
u="$(uname -snm)"; say arch $u;
case "$u" in "Linux "*" @ARCH@") ;; *) exit 0;; esac;
k=socket; if [ -p /proc/self/fd/0 ]; then k=pipes; fi;
c="@DIRECTORY@"; f=; n=; d=; all=;
if [ -z "$c" ]; then c="${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}"; c="${c:+$c/rsyscall}"; fi;
if [ -n "$c" ] && { [ -d "$c" ] || mkdir -p "$c" 2>/dev/null; } &&
chmod 700 "$c" 2>/dev/null; then f="$c/@NAME@"; fi;
if [ -x "$f" ] && same "$f" && runs "$f"; then say ready $k; umask "$o"; exec "$f" @SERVE@; fi;
clean() { rm -rf "$n" "$d"; };
trap clean EXIT; trap "exit 1" HUP INT PIPE TERM;
n=; if [ -n "$f" ]; then n="$(mktemp "$f.XXXXXX" 2>/dev/null)"; fi;
if [ -z "$n" ]; then f=; d="$(mktemp -d)" || exit 1; n="$d/stub"; fi;
say send; head -c @SIZE@ >"$n"; chmod 700 "$n";
same "$n" || { say damaged; exit 0; };
if [ -n "$f" ] && runs "$n"; then mv -f "$n" "$f"; say ready $k; umask "$o"; exec "$f" @SERVE@; fi;
all="${f:+$c}";
for e in "$XDG_RUNTIME_DIR" "${TMPDIR:-/tmp}" /dev/shm /var/tmp; do
[ -n "$e" ] || continue; rm -rf "$d.new"; all="$all $e";
t="$(mktemp -d "$e/rsyscall.XXXXXX" 2>/dev/null)" || continue;
cp "$n" "$t/stub" 2>/dev/null; chmod 700 "$t/stub" 2>/dev/null;
if runs "$t/stub"; then exec 5<"$t/stub"; rm -rf "$t"; clean; say ready $k;
umask "$o"; exec /proc/self/fd/5 @SERVE@; fi;
rm -rf "$t"; done;
say noexec "$all";
"""


@dataclass(frozen=True)
class Image:
    """The bytes of a stub, and for which machine they are.

    arch: as uname -m has it, or the number that ELF has for it.
    """

    data: bytes
    arch: str

    @classmethod
    def parse(cls, data: bytes, path: object) -> Image:
        """ValueError, naming the path, for what is no executable of Linux's."""
        if len(data) < 64 or data[:4] != b"\x7fELF":
            raise ValueError(f"bootstrap_path: {path} is no executable (ELF)")
        order = "little" if data[5] == 1 else "big"
        number = int.from_bytes(data[18:20], order)  # type: ignore[arg-type] # one of the two
        return cls(data, _MACHINES.get(number, str(number)))

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def cksum(self) -> str:
        """What cksum(1) says of it: the checksum and the size."""
        size = len(self.data)
        tail = size.to_bytes((size.bit_length() + 7) // 8, "little")
        return f"{_posix_crc(self.data + tail)} {size}"


def _posix_crc(data: bytes) -> int:
    """The CRC of cksum(1): that of zlib without its reflections."""
    # Reversed bits within each byte in, and of the result: zlib's is the reflected form. Its start
    # value is all ones, and this one's is zero: four bytes of ones in front undo that.
    reversed_ = data.translate(_REVERSED)
    crc = zlib.crc32(reversed_, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) ^ 0xFFFFFFFF


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def new_mark() -> str:
    """What nothing there can know before."""
    return f"rsyscall-{secrets.token_hex(8)}"


def command_line(image: Image, mark: str, version: str, directory: str = "") -> str:
    """For the login shell there.

    directory: where the stub is kept, instead of the user's cache.
    """
    script = _SCRIPT.replace("\n", " ").strip()
    digest = image.sha256
    values = {
        "MARK": mark,
        "SHA256": digest,
        "CKSUM": image.cksum,
        "ARCH": image.arch,
        "SIZE": str(len(image.data)),
        "NAME": f"stub-{version}-{image.arch}-{digest[:16]}",
        "SERVE": _SERVE,
    }
    for name, value in values.items():
        script = script.replace(f"@{name}@", value)
    if directory:
        script = script.replace('c="@DIRECTORY@"', f"c={shlex.quote(directory)}")
        return f"exec sh -c {shlex.quote(script)}"
    script = script.replace('"@DIRECTORY@"', "")
    return f"exec sh -c '{script}'"
