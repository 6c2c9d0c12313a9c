"""trio's streams and listeners over descriptors of any process.

All that trio and others make of these interfaces works with them: trio.SSLStream,
trio.serve_listeners, trio.StapledStream and so on. Errors are those that trio's interfaces promise:
trio.ClosedResourceError once it is closed here, trio.BrokenResourceError if the other end is closed
or the process has ended, trio.BusyResourceError if two tasks do the same at once.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator

import trio

from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.near.sysif import SyscallHangup
from rsyscall.sys.socket import SHUT, SOCK

__all__ = ["RemoteListener", "RemoteReceiveStream", "RemoteSendStream", "RemoteStream"]

#: How many bytes are received at once if it is not said.
_SOME = 65536
#: What accept(2) reports of a connection that was to be accepted, and not of the listener.
_NOT_OURS = {
    errno.EPERM,
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
}


@contextlib.contextmanager
def _broken() -> Generator[None]:
    try:
        yield
    except (OSError, SyscallHangup) as exc:
        raise trio.BrokenResourceError(f"the stream is broken: {exc}") from exc


class _Turn:
    """What one task at a time may do."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(self._what)
        self._taken = True

    def __exit__(self, *exc: object) -> None:
        self._taken = False


class _Closing(trio.abc.AsyncResource):
    """A descriptor that is closed."""

    def __init__(self, fd: AsyncFileDescriptor) -> None:
        """Take over the descriptor."""
        self.fd = fd

    async def aclose(self) -> None:
        """Close it, cancelled or not; nothing if that was done before. A checkpoint."""
        await self.fd.close()


class RemoteSendStream(_Closing, trio.abc.SendStream):
    """What is sent is written to a descriptor, such as the writing end of a pipe."""

    def __init__(self, fd: AsyncFileDescriptor) -> None:
        """Take over the descriptor."""
        super().__init__(fd)
        self._sending = _Turn("another task is using this stream for send")
        self._ended = False

    async def _begin_to_send(self) -> None:
        self.fd.check_open()
        if self._ended:
            raise trio.ClosedResourceError("nothing can be sent after send_eof")
        await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream; if cancelled, a part of unknown length has been sent."""
        with self._sending:
            await self._begin_to_send()
            with _broken():
                await self.fd.write_all_bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        with self._sending:
            await self._begin_to_send()
            with _broken():
                await self.fd.wait_writable()


class RemoteReceiveStream(_Closing, trio.abc.ReceiveStream):
    """What is received is read from a descriptor, such as the reading end of a pipe."""

    def __init__(self, fd: AsyncFileDescriptor) -> None:
        """Take over the descriptor."""
        super().__init__(fd)
        self._receiving = _Turn("another task is using this stream for receive")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See trio.abc.ReceiveStream; if cancelled, nothing has been received."""
        if max_bytes is None:
            max_bytes = _SOME
        elif not isinstance(max_bytes, int):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise TypeError(f"max_bytes: {max_bytes!r} is no integer")
        elif max_bytes < 1:
            raise ValueError(f"max_bytes: {max_bytes} is not positive")
        with self._receiving:
            self.fd.check_open()
            await trio.lowlevel.checkpoint()
            with _broken():
                return await self.fd.read_some_bytes(max_bytes)


class RemoteStream(RemoteSendStream, RemoteReceiveStream, trio.abc.HalfCloseableStream):
    """A socket that is connected."""

    def __init__(self, fd: AsyncFileDescriptor) -> None:
        """Take over the descriptor."""
        RemoteSendStream.__init__(self, fd)
        self._receiving = _Turn("another task is using this stream for receive")

    async def send_eof(self) -> None:
        """See trio.abc.HalfCloseableStream; if cancelled, nothing has happened. shutdown(2)."""
        with self._sending:
            self.fd.check_open()
            await trio.lowlevel.checkpoint()
            with _broken():
                await self.fd.handle.shutdown(SHUT.WR)
            self._ended = True


class RemoteListener(_Closing, trio.abc.Listener[RemoteStream]):
    """A socket that listens."""

    def __init__(self, fd: AsyncFileDescriptor) -> None:
        """Take over the descriptor."""
        super().__init__(fd)

    async def accept(self) -> RemoteStream:
        """Wait for a connection, and take it.

        What has become of a connection before it could be taken is no error. OSError as the call
        otherwise reports it; SyscallHangup. If cancelled, none was taken. accept4(2).
        """
        self.fd.check_open()
        await trio.lowlevel.checkpoint()
        while True:
            try:
                made = await self.fd.accept(SOCK.NONBLOCK)
            except OSError as exc:
                if exc.errno not in _NOT_OURS:
                    raise
            else:
                return RemoteStream(AsyncFileDescriptor(self.fd.epoller, made))
