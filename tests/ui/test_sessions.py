"""A session costs little, and the server keeps few of them; people's open pages stay longest."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from sd_demo.outputs import Outputs
from sd_demo.ui import blocks, sessions
from sd_demo.ui.sessions import Session, Sessions
from tests.fake_engine import FakeEngine


@pytest.fixture
def page(tmp_path: Path) -> Iterator[blocks.Page]:
    engine = FakeEngine(Outputs(tmp_path / "outputs"))
    engine.start()
    yield blocks.build(engine)
    engine.close()


@pytest.fixture
def holder(page: blocks.Page, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    monkeypatch.setattr(sessions, "CAPACITY", 3)
    holder = Sessions()
    holder.set_blocks(page)
    return holder


def test_a_session_does_not_copy_the_page(page: blocks.Page) -> None:
    session = Session(page)
    assert len(pickle.dumps(session.config_values)) < 100, "Gradio's holds the configuration of every component"
    a_component = next(iter(page.default_config.blocks))
    assert session[a_component] is page.default_config.blocks[a_component]
    assert a_component in session


def test_a_component_that_an_update_changed_is_this_sessions_alone(page: blocks.Page) -> None:
    one, other = Session(page), Session(page)
    number, before = next((k, b) for k, b in page.default_config.blocks.items() if isinstance(b, gr.Textbox))
    one[number] = gr.Textbox(label="changed", render=False)
    assert one[number].label == "changed"
    assert other[number] is before
    assert page.default_config.blocks[number] is before


def test_many_updates_keep_one_component_each(page: blocks.Page) -> None:
    session = Session(page)
    number = next(k for k, b in page.default_config.blocks.items() if isinstance(b, gr.Textbox))
    for _ in range(20):
        fresh = gr.Textbox(render=False)
        session[number] = fresh
        session[fresh._id] = fresh  # as Gradio does after an update
    assert len(session.blocks_config.blocks) == len(page.default_config.blocks)


def test_state_stays_with_its_session(page: blocks.Page) -> None:
    one, other = Session(page), Session(page)
    number = next(k for k, b in page.default_config.blocks.items() if isinstance(b, gr.State))
    one[number] = "mine"
    assert one[number] == "mine"
    assert other[number] != "mine"


def test_api_calls_do_not_push_people_out(holder: Sessions, page: blocks.Page) -> None:
    number = next(k for k, b in page.default_config.blocks.items() if isinstance(b, gr.State))
    holder["person"][number] = "job"
    for call in range(50):
        assert holder[f"call {call}"] is holder[f"call {call}"]
    assert len(holder.session_data) == 3
    assert holder["person"][number] == "job"


def test_closed_pages_go_before_open_ones(holder: Sessions, page: blocks.Page) -> None:
    number = next(k for k, b in page.default_config.blocks.items() if isinstance(b, gr.State))
    for name in ("open", "closed", "newer"):
        holder[name][number] = name
    holder["closed"].is_closed = True
    holder["newest"][number] = "newest"
    assert set(holder.session_data) == {"open", "newer", "newest"}
    assert set(holder.time_last_used) == {"open", "newer", "newest"}
