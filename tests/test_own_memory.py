"""Weights that were mapped onto a file are copied, and the file's pages let go one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sd_demo import own_memory
from sd_demo.own_memory import own

MIB = 2**20


def mapped(file: Path, tensors: int, mib: int) -> torch.nn.ParameterList:
    """So many weights of `mib` MiB each, mapped onto `file`."""
    numbers = tensors * mib * MIB // 4
    file.write_bytes(torch.arange(numbers, dtype=torch.float32).numpy().tobytes())
    whole = torch.from_file(str(file), shared=False, size=numbers)
    return torch.nn.ParameterList([torch.nn.Parameter(part) for part in whole.chunk(tensors)])


def of_files_mib() -> int:
    """Memory of this process that is pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:")) // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell what is mapped")
def test_what_is_mapped_is_copied_and_its_pages_go(tmp_path: Path) -> None:
    weights = mapped(tmp_path / "weights", 4, 16)
    others = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(8))])
    still_mapped = [parameter.data for parameter in weights]
    expected = [parameter.data.sum().item() for parameter in weights]  # reads every page
    before, kept = of_files_mib(), others[0].data_ptr()
    own(weights)
    own(others)
    assert before - of_files_mib() >= 60
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(weights, still_mapped, strict=True))
    assert [parameter.data.sum().item() for parameter in weights] == expected
    assert [data.sum().item() for data in still_mapped] == expected, "they are read from the file again"
    assert others[0].data_ptr() == kept, "what is no file's stays where it is"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell what is mapped")
def test_pages_are_let_go_while_they_are_the_files_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's mapping ends with its last tensor, and what lies at its place then may be anybody's."""
    is_mapped: list[bool] = []

    def look(address: int, size: int) -> None:
        is_mapped.append(any(start <= address < end for start, end in own_memory._mapped() or ()))

    monkeypatch.setattr(own_memory, "forget_pages", look)
    own(mapped(tmp_path / "weights", 3, 1))
    assert is_mapped == [True] * 3


def test_where_the_system_does_not_say_all_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = mapped(tmp_path / "weights", 2, 1)
    before, expected = [p.data_ptr() for p in weights], [p.data.clone() for p in weights]
    monkeypatch.setattr(own_memory, "_mapped", lambda: None)
    own(weights)
    assert all(p.data_ptr() != pointer for p, pointer in zip(weights, before, strict=True))
    assert all(torch.equal(p.data, one) for p, one in zip(weights, expected, strict=True))
