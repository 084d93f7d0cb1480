"""Known vulnerabilities in what requirements.txt installs, with all that it brings: `python -m tests.dependency_audit`.

Ends with 1 where one is known. Where nobody can be asked, as on a machine without network, it says so and ends with 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
WAIT_S = 120


def main(arguments: list[str] | None = None) -> int:
    """Audit, and tell in one line or, where something is known, in one for each vulnerability."""
    extra = sys.argv[1:] if arguments is None else arguments
    packages = installed(REQUIREMENTS)
    found = audit(packages, extra)
    asked = [one for one in found if "skip_reason" not in one]
    if not asked:
        print("Dependency audit: skipped, no list of vulnerabilities could be asked.")
        return 0
    known = [(one["name"], one["version"], what) for one in asked for what in one["vulns"]]
    for name, version, what in known:
        fixed = ", ".join(what["fix_versions"]) or "no version yet"
        print(f"Dependency audit: {name} {version} has {what['id']}; fixed in {fixed}.")
    if not known:
        print(f"Dependency audit: no known vulnerability in {len(asked)} of {len(packages)} packages.")
    return 1 if known else 0


def installed(requirements: Path) -> dict[str, str]:
    """{package: installed version} of all that a requirements file names and of what those need, sorted."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    waiting = [Requirement(line) for line in lines if line]
    found: dict[str, str] = {}
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another system
        found[name] = package.version.partition("+")[0]  # "+cpu" is no version that a list knows
        waiting += [Requirement(text) for text in package.requires or ()]
    return dict(sorted(found.items()))


def audit(packages: dict[str, str], extra: list[str]) -> list[dict]:
    """What pip-audit knows of these, one entry each; [] where it could ask nobody."""
    with TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(f"{name}=={version}" for name, version in packages.items()), encoding="utf-8")
        command = ["-r", str(listed), "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip_audit", *command, "--cache-dir", folder, *extra],
                capture_output=True,
                text=True,
                timeout=WAIT_S,
            )
        except subprocess.TimeoutExpired:
            return []
    try:
        return json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return []


if __name__ == "__main__":
    sys.exit(main())
