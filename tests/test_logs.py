"""JSON logs: one object a line, the request's id in it, prompts only where they were asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from sd_demo import logs
from sd_demo.errors import PlaygroundError
from sd_demo.events import Cancelled, Failed
from sd_demo.job import Job
from sd_demo.requests import parse_request


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, levels = logging.getLogger(), {}
    handlers = list(root.handlers)
    for name in ("", "sd_demo", "sd_demo.job"):
        levels[name] = logging.getLogger(name).level
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def end_a_job() -> Job:
    job = Job(parse_request("text_to_image", {"prompt": "a secret plan"}), visitor="me", has_previews=False)
    job.tell(Failed(PlaygroundError("No luck."), job.id))
    job.tell(Cancelled())  # nothing follows an end
    return job


@pytest.mark.parametrize("has_prompts", [False, True])
def test_a_job_that_ends_is_one_object(has_prompts: bool, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json", has_prompts=has_prompts)
    job = end_a_job()
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["request_id"] == job.id
    assert (told["level"], told["logger"], told["outcome"]) == ("info", "sd_demo.job", "failed")
    assert (told["error"], told["task"], told["visitor"]) == ("No luck.", "text_to_image", "me")
    assert ("a secret plan" in line) is has_prompts


def test_an_exception_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json")
    try:
        raise ValueError("several\nlines")
    except ValueError:
        logging.getLogger("sd_demo.ui").exception('said "so"\n%s', "ü")
    told = json.loads(capsys.readouterr().err)
    assert told["message"] == 'said "so"\nü'
    assert "several\nlines" in told["exception"]
    assert told["time"].endswith("Z")


def test_as_text_a_job_that_ends_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text")
    end_a_job()
    logging.getLogger("sd_demo").info("The page is here.")
    assert capsys.readouterr().err == "The page is here.\n"
