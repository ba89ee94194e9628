"""PUNA_NO_SKIPS=1 (which `make test-all` sets) turns every skipped test into a failure."""

import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# Audits that tests make are found again by other tests, and never land in the user's own folder.
os.environ.setdefault(
    "PUNA_AUDITS", os.path.join(tempfile.gettempdir(), f"puna-audits-{os.getuid()}")
)

# Kernels run in Triton's interpreter where there is no GPU; it asks when it is first imported.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Started in the background, a shell leaves Ctrl-C ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes on a busy machine says nothing.
settings.register_profile(
    "any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

NO_SKIPS = os.environ.get("PUNA_NO_SKIPS", "") not in ("", "0")


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A test that is expected to fail (xfail) reports "skipped" too, but it did run."""
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"PUNA_NO_SKIPS=1 and this was skipped: {reason}"


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if NO_SKIPS:
        _refuse(outcome.get_result())


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    outcome = yield
    if NO_SKIPS:
        _refuse(outcome.get_result())
