"""A call over a socket that is alone on its way, against a server that we play ourselves."""

from __future__ import annotations

import os
import socket
from typing import NoReturn

import pytest
import trio
import trio.testing

from rsyscall.near.sysif import ProtocolHangup, SyscallHangup
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Call, ErrorCode, Limits, Out, Result, encode
from rsyscall_protocol._encode import HEADER, HEADER_TAG
from unit.test_remote_sysif import Played, played
from wire import SECONDS


async def _call(sysif: RemoteSyscallInterface, results: list[object], size: int = 3) -> None:
    try:
        results.append(await sysif.call(39, [Out(size)]))
    except SyscallHangup as exc:
        results.append(exc)


async def _torn_away(sysif: RemoteSyscallInterface) -> None:
    with pytest.raises(KeyboardInterrupt):
        await sysif.call(39, [Out(3)])


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


async def _heard(server: Played) -> Call:
    event = await server.hear()
    assert isinstance(event, Call)
    return event


async def test_it_is_answered_and_the_next_one_too() -> None:
    async with played(Limits()) as (sysif, server):
        for turn in range(3):
            results: list[object] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_call, sysif, results)
                call = await _heard(server)
                server.say(Result(call.id, turn, (b"abc",)))
            (reply,) = results
            assert (getattr(reply, "value", None), getattr(reply, "outs", None)) == (
                turn,
                (b"abc",),
            )
        assert not sysif.busy


@pytest.mark.parametrize("missing", [1, 5, 12])
async def test_its_answer_may_come_in_pieces(missing: int) -> None:
    async with played(Limits()) as (sysif, server):
        results: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call, sysif, results)
            call = await _heard(server)
            data, _ = server.connection.send(Result(call.id, 7, (b"abc",)))
            server.socket.sendall(data[:-missing])
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            server.socket.sendall(data[-missing:])
        (reply,) = results
        assert getattr(reply, "outs", None) == (b"abc",)


async def test_another_may_join_it() -> None:
    async with played(Limits()) as (sysif, server):
        first: list[object] = []
        second: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call, sysif, first, 3)
            calls = [await _heard(server)]
            nursery.start_soon(_call, sysif, second, 1)
            calls.append(await _heard(server))
            assert calls[0].id < calls[1].id
            # In one piece, and in the other order.
            frames = [
                server.connection.send(Result(call.id, 0, (out,)))[0]
                for call, out in zip(reversed(calls), [b"z", b"abc"], strict=True)
            ]
            server.socket.sendall(b"".join(frames))
        assert [getattr(r, "outs", None) for r in first + second] == [(b"abc",), (b"z",)]


async def test_cancelled_meanwhile_it_returns_what_it_has_done() -> None:
    async with played(Limits()) as (sysif, server):
        results: list[object] = []
        with trio.fail_after(SECONDS), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_call, sysif, results)
                call = await _heard(server)
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    server.say(Result(call.id, 7, (b"abc",)))
        assert [getattr(reply, "value", None) for reply in results] == [7]


@pytest.mark.parametrize("way", ["unknown id", "size", "count", "fd"])
async def test_an_answer_that_cannot_be_is_none(way: str) -> None:
    ours, theirs = os.pipe()
    async with played(Limits()) as (sysif, server):
        results: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call, sysif, results)
            call = await _heard(server)
            wrong = {
                "unknown id": Result(call.id + 1, 0, (b"abc",)),
                "size": Result(call.id, 0, (b"ab",)),
                "count": Result(call.id, 0, ()),
                "fd": Result(call.id, 0, (b"abc",), (theirs,)),
            }
            body = encode(wrong[way])  # our own connection would not say it
            fds = [theirs] if way == "fd" else []
            socket.send_fds(server.socket, [HEADER.pack(HEADER_TAG, len(body)) + body], fds)
            os.close(theirs)
        (error,) = results
        assert isinstance(error, ProtocolHangup)
        assert error.code == (ErrorCode.ID if way == "unknown id" else ErrorCode.FIELD)
    async with trio.lowlevel.FdStream(ours) as pipe:
        with trio.fail_after(SECONDS):
            assert await pipe.receive_some() == b""  # a descriptor that came has been closed


async def test_the_end_of_the_server_ends_it() -> None:
    async with played(Limits()) as (sysif, server):
        results: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call, sysif, results)
            await _heard(server)
            server.socket.close()
        (error,) = results
        assert isinstance(error, SyscallHangup)


async def test_closing_the_connection_ends_it() -> None:
    async with played(Limits()) as (sysif, server):
        results: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call, sysif, results)
            await _heard(server)
            sysif.close()
        (error,) = results
        assert isinstance(error, SyscallHangup)


async def test_after_it_was_torn_away_the_next_call_gets_its_own_answer() -> None:
    async with played(Limits()) as (sysif, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_torn_away, sysif)
            await trio.testing.wait_all_tasks_blocked()
            (task,) = nursery.child_tasks
            task._attempt_abort(_interrupt)  # pyright: ignore[reportPrivateUsage] - as trio does it
        call = await _heard(server)
        results: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call, sysif, results, 1)
            server.say(Result(call.id, 7, (b"abc",)))
            call = await _heard(server)
            server.say(Result(call.id, 8, (b"z",)))
        assert [getattr(reply, "outs", None) for reply in results] == [(b"z",)]
