"""The house holds: imports point down only, each library is met on its own floor, files stay readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Every module or package of sd_demo, by floor. A new one belongs on the lowest floor that it can stand on.
FLOORS = {
    0: (
        "errors",
        "flags",
        "writable",
        "host_memory",
        "memory_errors",
        "own_memory",
        "logs",
        "passwords",
        "settings",
        "requests",
        "images",
        "registry",
        "known_models",
        "architectures",
        "model_files",
        "file_header",
        "receipt",
        "outputs",
        "limits",
        "plan",
        "metrics",
        "events",
        "lora_folder",
        "history",
        "verify",
        "parameters_text",
        "prompt_grammar",
        "restored",
        "restore",
        "weight_hashes",
        "image_difference",
        "contact_sheet",
        "compare",
        "enlarge",
        "upscale",
        "styles",
        "training_request",
        "training_pictures",
        "training_events",
    ),  # data, no torch
    1: (
        "placement",
        "pace",
        "lean_decoder",
        "lean_transformer",
        "compiled_norm",
        "row_independence",
        "winograd",
        "residence",
        "recordings",
        "traced_calls",
        "torch_threads",
        "health",
        "schedulers",
        "checkpoints",
        "random_model",
        "hub",
        "canvas",
        "lora",
        "training_views",
        "ranking",
        "embedded",
    ),  # one concern each
    2: (
        "prompts",
        "pooled_prompts",
        "memory_need",
        "memory_outline",
        "prompt_chunks",
        "diffusers_script",
        "upscale_script",
        "recipes",
        "safety",
        "captured_calls",
        "twin_rows",
        "kept_conditions",
        "tuned_networks",
        "compiled_calls",
        "loaded_model",
        "pipeline_manager",
        "newer_weights",
        "worn_loras",
        "lora_trainer",
        "lora_checkpoint",
        "lora_training",
        "denoising",
        "super_resolution",
        "tiled_vae",
        "decoding",
        "learn",
    ),  # diffusion
    3: (
        "job",
        "gate",
        "forecast",
        "fair_queue",
        "running",
        "endings",
        "finishing",
        "saving",
        "notes",
        "together",
        "comparing",
        "upscaling",
        "speed",
        "preflight",
        "turns",
        "doctor",
        "engine",
        "exactness",
        "bench_ways",
        "bench",
    ),  # the only way to the device
    4: ("ui", "cli", "soak", "__main__"),  # doors; app.py stands here too
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}

LONGEST = 250
LONGER = {  # at most 350 lines, each with the reason why it is not two files
    "sd_demo/requests.py": "every parameter is declared once, in one place",
    "sd_demo/engine.py": "the worker and its queue share one lock, and are read together",
}
FAMILIES = {"gradio": {4}, "torch": {1, 2, 3}, "diffusers": {1, 2, 3}, "transformers": {1, 2, 3}}


@dataclass(frozen=True)
class Import:
    """`file` (relative to the root) imports `module` in line `line`; at type-checking time only, or really."""

    file: str
    line: int
    module: str
    is_typing: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def is_module(name: str) -> bool:
    """True for a module or package of this checkout."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports_of(path: Path) -> Iterator[Import]:
    """All imports of a file, also those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    file = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute, so that a search finds them"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from sd_demo import errors` imports a module, `from sd_demo.errors import X` a name of one.
            modules = [name if is_module(name) else node.module or "" for name in whole]
        for module in modules:
            yield Import(file, node.lineno, module, node in typing_only)


def part_of(file: str) -> str | None:
    """The module or package of sd_demo that a file belongs to; None for sd_demo/__init__.py and files elsewhere."""
    match = re.match(r"sd_demo/(\w+)(/|\.py$)", file)
    return match[1] if match and match[1] != "__init__" else None


SOURCES = sorted([*ROOT.glob("sd_demo/**/*.py"), *ROOT.glob("app.py")])
IMPORTS = [found for path in SOURCES for found in imports_of(path)]


def test_every_module_has_a_floor() -> None:
    parts = {part_of(path.relative_to(ROOT).as_posix()) for path in SOURCES} - {None}
    assert parts <= set(FLOOR_OF), "put the new module into FLOORS"
    assert set(FLOOR_OF) <= parts, "FLOORS names a module that is gone"


def test_imports_point_down() -> None:
    wrong = []
    for found in IMPORTS:
        target = part_of(found.module.replace(".", "/") + ".py")
        if target not in FLOOR_OF:  # another package, or a name such as __version__
            continue
        here = part_of(found.file)
        own = FLOOR_OF.get(here or "", 4)
        is_inside = here == target
        is_sibling = here is not None and own == FLOOR_OF[target] == 1
        if not is_inside and (FLOOR_OF[target] > own or is_sibling):
            wrong.append(str(found))
    assert wrong == []


def test_nothing_imports_in_a_circle() -> None:
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for found in imports_of(path):
            if not found.is_typing and found.module in names:
                graph[name].add(found.module)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("library", FAMILIES)
def test_each_library_is_met_on_its_own_floors_only(library: str) -> None:
    wrong = []
    for found in IMPORTS:
        here = part_of(found.file)
        own = FLOOR_OF.get(here or "", 4)
        is_door_of_gradio = library != "gradio" or here == "ui" or found.file == "app.py"
        if found.module.split(".")[0] == library and not (own in FAMILIES[library] and is_door_of_gradio):
            wrong.append(str(found))
    assert wrong == []


def test_the_ground_floor_and_the_commands_load_no_torch() -> None:
    modules = [f"sd_demo.{name}" for name in FLOORS[0]] + ["sd_demo.cli.generate", "sd_demo.cli.embedded"]
    heavy = "{'torch', 'diffusers', 'transformers', 'gradio'}"
    code = f"import sys, {', '.join(modules)}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


def test_files_stay_readable() -> None:
    wrong = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > (350 if name in LONGER else LONGEST):
            wrong.append(f"{name} has {lines} lines")
        if name in LONGER:
            assert lines > LONGEST, f"{name} is short again: take it from LONGER"
    assert wrong == []
    assert all(LONGER.values())


def test_no_file_is_named_for_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "misc", "shared", "stuff", "base", "core"}
    assert [str(path) for path in SOURCES if vague & {path.stem, *path.relative_to(ROOT).parts}] == []


def test_every_lint_exception_carries_its_reason() -> None:
    wrong = []
    for path in [*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py")]:
        explained: set[str] = set()  # the first of several alike in a file speaks for all
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            bare = re.search(r"#\s*noqa(?!: [A-Z]+\d+)|#\s*type: ignore(?!\[)", line)
            found = re.search(r"#\s*noqa: ([A-Z0-9, ]+)(.*)$", line)
            if found and found[2].strip():
                explained.add(found[1].strip())
            if path != Path(__file__) and (bare or (found and found[1].strip() not in explained)):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert wrong == []


def test_no_test_moves_the_clock_of_the_whole_process() -> None:
    """The event loop of a running page that falls asleep while it is ahead sleeps until the true time gets there."""
    moved = re.compile(r"""setattr\((?:[\w.]+\.)?time, ["']|setattr\(["']time\.|\btime\.(?:monotonic|time|sleep) = """)
    wrong = [path.name for path in ROOT.glob("tests/**/*.py") if moved.search(path.read_text(encoding="utf-8"))]
    assert wrong == []


def test_nothing_of_the_workshop_is_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    text = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/|/tmp/(?!\w*example)", re.ASCII)
    wrong = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path == Path(__file__) or path.suffix not in {
            ".py",
            ".md",
            ".toml",
            ".txt",
            ".sh",
            ".json",
            ".js",
            ".css",
            "",
        }:
            continue
        if path.is_file() and (found := text.search(path.read_text(encoding="utf-8", errors="replace"))):
            wrong.append(f"{name}: {found[0]}")
    assert wrong == []
