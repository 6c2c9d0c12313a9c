"""What holds for every test: it leaves nothing over, and none is skipped if that is not wanted."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Generator
from inspect import iscoroutinefunction

import pytest

from leaks import run_and_count, unchanged

pytest_plugins = ["pytester"]

# What a shell runs in the background ignores the first two, and nohup(1) the last; and all that is
# started here inherits that.
for _sig, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_sig) is signal.SIG_IGN:
        signal.signal(_sig, _handler)

_REQUIRE = os.environ.get("RSYSCALL_TEST_REQUIRE") == "1"


def pytest_collection_finish() -> None:
    """Let the tests that collect garbage not look through all tests that there are."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parents", help="only these parents of children, of tests/process")


@pytest.fixture(scope="session", autouse=True)
def _by_ssh(request: pytest.FixtureRequest) -> Generator[None]:
    """What tests by ssh have in common, before anything is counted; if there are any."""
    with contextlib.ExitStack() as stack:
        for item in request.session.items:
            params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
            if "ssh" in params.values():
                from conformance.ssh import master

                stack.enter_context(master())
                break
        yield


@pytest.fixture(autouse=True)
def _nothing_left_over() -> Generator[None]:
    with unchanged():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=run_and_count), append=False)


def _require(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _REQUIRE and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"RSYSCALL_TEST_REQUIRE=1, and this was skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _require(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _require(report)
    return report
