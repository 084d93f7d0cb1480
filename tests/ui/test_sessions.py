"""A session costs little, and the server keeps few of them; people's open pages stay longest."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from sd_demo.outputs import Outputs
from sd_demo.ui import blocks, lesson, sessions, stopping
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


def test_a_finished_run_leaves_no_picture_in_the_states(
    page: blocks.Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    picture, layer = Image.linear_gradient("L").convert("RGB"), Image.new("RGBA", (256, 256))
    layer.paste((255, 45, 120, 150), (64, 64, 128, 128))
    picture.save(tmp_path / "uploads" / "image.png")
    layer.save(tmp_path / "uploads" / "layer.png")
    files = {name: {"path": str(tmp_path / "uploads" / f"{name}.png")} for name in ("image", "layer")}
    generate = next(
        one for one in page.fns.values()
        if getattr(one.fn, "__name__", "") == "generate" and one.inputs[-1].elem_id == "inpaint-image"
    )  # fmt: skip
    given = [one.value for one in generate.inputs[1:-1]]
    drawn = {"background": files["image"], "layers": [files["layer"]]}
    held: dict[int, object] = {}
    job = None
    for updates in generate.fn(gr.Request(), None, *given, drawn):
        states = {one: value for one, value in updates.items() if isinstance(one, gr.State)}
        held |= {one._id: value for one, value in states.items()}
        job = next((value for value in states.values() if isinstance(value, stopping.Stop)), job)
        last = updates
    assert isinstance(job, stopping.Stop)
    assert not any(isinstance(one, Image.Image) for value in held.values() for one in _within(value))
    (compare,) = [one for one in last if one.elem_id == "inpaint-compare"]
    with Image.open(last[compare]["value"][0]) as before:
        assert before.tobytes() == picture.tobytes()
    page.engine.close()  # whose worker holds its last job
    page.engine.jobs.clear()  # type: ignore[attr-defined]
    gc.collect()
    assert job._job() is None, "a page that was closed in the middle would keep the request with its pictures"
    job.cancel()

    # Where the file has gone since, the picture stands alone.
    (tab_shown,) = [value for value in held.values() if isinstance(value, list)]
    Path(tab_shown[0].before).unlink()
    parts = next(
        one for one in page.fns.values() if getattr(one.fn, "__name__", "") == "select" and compare in one.outputs
    )
    again = parts.fn(tab_shown, gr.SelectData(None, {"index": 0, "value": ""}))
    assert again[compare]["visible"] is False
    (large,) = [one for one in again if one.elem_id == "inpaint-picture"]
    assert again[large]["visible"] is True


def _within(value: object) -> list[object]:
    """A value of a state and everything that its items hold."""
    items = value if isinstance(value, list) else [value]
    return [inner for one in items for inner in (one, *getattr(one, "__dict__", {}).values())]


def test_lessons_of_all_pages_together_leave_the_device_its_turns(page: blocks.Page) -> None:
    def is_of_a_lesson(listener: object) -> bool:
        parts = [*listener.inputs, *listener.outputs]  # type: ignore[attr-defined]
        return any(str(one.elem_id).startswith("learn-") for one in parts)

    limits = {
        (one.concurrency_id, one.concurrency_limit, one.queue) for one in page.fns.values() if is_of_a_lesson(one)
    }
    assert limits == {("lessons", lesson.AT_ONCE, True)}
