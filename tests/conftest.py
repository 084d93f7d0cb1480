"""What all tests share: no network, no telemetry, one folder for outputs, one browser."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from sd_demo.outputs import Outputs
from tests.guard import sitecustomize as network_guard

if TYPE_CHECKING:
    # At run time only the tests that need them pay for torch and gradio.
    from sd_demo.loaded_model import LoadedModel
    from tests.fake_page import FakePage

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported, which tests do after this
os.environ["HF_HUB_OFFLINE"] = "1"
for name in [name for name in os.environ if name.startswith("SD_DEMO_")]:
    del os.environ[name]  # a developer's own settings must not decide what a test sees

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER:  # one of several processes of tests
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where others compute, idle helpers sleep at once
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix=f"gradio-{WORKER}-")  # each writes its own files
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
hypothesis.settings.register_profile("busy machine", deadline=None, database=None)
hypothesis.settings.load_profile("busy machine")

network_guard.install()


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fails a test on any attempt to reach beyond this machine, also one whose error was swallowed."""
    yield
    seen = network_guard.attempts.copy()
    network_guard.attempts.clear()
    assert seen == [], "something tried to reach the network during this test, or since the one before it"


@pytest.fixture
def guarded_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment for a process that a test starts; fails the test if that process tried to reach the network."""
    log = tmp_path / "connections.txt"
    guard = Path(network_guard.__file__).parent
    yield {**os.environ, "PYTHONPATH": str(guard), network_guard.LOG_VARIABLE: str(log)}
    assert not log.exists(), f"a process tried to reach the network: {log.read_text()}"


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """A fresh folder of pictures."""
    return Outputs(tmp_path / "outputs")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser that drives the page."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    pytest.fail("no Chromium on PATH; bash tests/run.sh installs one")


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """The embedded model on the CPU in float32, with the one attention whose answers the oracles share."""
    from sd_demo.pipeline_manager import PipelineManager
    from sd_demo.registry import EMBEDDED, Registry
    from sd_demo.settings import Settings

    manager = PipelineManager(Settings(device="cpu", dtype="float32", attention="sdpa"), Registry())
    return manager.get(EMBEDDED)


@pytest.fixture(scope="session")
def fake_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePage]:
    """One running page for all tests that only ask it; its engine draws squares."""
    from tests import fake_page

    with fake_page.serve(tmp_path_factory.mktemp("outputs")) as page:
        yield page
