"""Every script of examples/ runs as it stands, from an empty folder, without the network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SLOW = {"train_lora.py"}  # minutes long; tests/test_lora_training.py runs its parts


@pytest.mark.parametrize("script", sorted(p.name for p in EXAMPLES.glob("*.py") if p.name not in SLOW))
def test_example_runs(script: str, tmp_path: Path, guarded_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLES / script)],
        cwd=tmp_path,
        env=guarded_environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("outputs/**/*.png")), "an example writes pictures into outputs/"
