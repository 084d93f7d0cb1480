"""An evaluation gives a perfect drawer full marks, a careless one none, and asks for what no training has shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_demo.cli import evaluate as door
from sd_demo.cli.embedded import run
from sd_demo.embedded import evaluation_prompts as prompts
from sd_demo.embedded import language_figures as language
from sd_demo.embedded import world
from sd_demo.embedded.evaluate import Draw, Evaluator, Made, mean_distance
from sd_demo.embedded.figures import BARS, Figure, as_json, as_lines, share
from sd_demo.embedded.judge import load_judge
from sd_demo.embedded.layout import is_clear
from sd_demo.embedded.marking import mark
from sd_demo.embedded.objects import HELD_OUT
from sd_demo.embedded.picture import POSITIONS, Picture, Thing
from sd_demo.embedded.sight import Found, Judgement
from sd_demo.embedded.sweep import Cell, draw_table, measure_cell
from sd_demo.errors import InvalidRequest
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.limits import Limits
from sd_demo.requests import AnyRequest

CAR = Thing("car", "red", "medium", "left", "near")
CAT = Thing("cat", "blue", "small", "right", "near")
PICTURE = Picture("beach", "day", "clear", "picture book", (CAR, CAT), None, 1)


def found(thing: Thing, x: float, **other: str) -> Found:
    extent = {"small": 0.19, "medium": 0.32, "large": 0.5}[thing.size]
    return Found(other.get("object", thing.object), other.get("colour", thing.colour), x, 0.7, extent, 0.1, 0.9)


def judged(*things: Found, scene: str = "beach") -> Judgement:
    return Judgement(scene, "day", "clear", "picture book", things)


def test_the_order_of_what_is_found_does_not_matter() -> None:
    assert mark(PICTURE, judged(found(CAR, 0.2), found(CAT, 0.8))).is_all_right
    assert mark(PICTURE, judged(found(CAT, 0.8), found(CAR, 0.2))).is_all_right


def test_each_fault_is_marked_where_it_is() -> None:
    swapped = mark(PICTURE, judged(found(CAR, 0.2, colour="blue"), found(CAT, 0.8, colour="red")))
    assert [thing["colour"] for thing in swapped.things] == [False, False]
    assert [thing["object"] for thing in swapped.things] == [True, True]
    elsewhere = mark(PICTURE, judged(found(CAR, 0.5), found(CAT, 0.8)))
    assert elsewhere.things[0] == {"object": True, "colour": True, "size": True, "position": False}
    missing = mark(PICTURE, judged(found(CAT, 0.8)))
    assert missing.things[0] == dict.fromkeys(("object", "colour", "size", "position"), False)
    assert all(missing.things[1].values())
    too_many = mark(PICTURE, judged(found(CAR, 0.2), found(CAT, 0.8), found(CAT, 0.5)))
    assert all(all(thing.values()) for thing in too_many.things)
    wrong_scene = mark(PICTURE, judged(found(CAR, 0.2), found(CAT, 0.8), scene="snow"))
    assert not wrong_scene.whole["scene"]
    assert not any(m.is_all_right for m in (swapped, elsewhere, missing, too_many, wrong_scene))


@pytest.mark.parametrize("relation", ["in front of", "above", "next to", None])
def test_what_is_in_front_or_above_is_marked_by_itself(relation: str | None) -> None:
    front, back = (Thing(name, "red", "small", "left", depth) for name, depth in (("cat", "near"), ("house", "far")))
    asked = Picture("beach", "day", "clear", "picture book", (front, back), relation, 0)
    lower, higher = (Found("cat", "red", 0.2, y, 0.2, 0.2, 0.9) for y in (0.8, 0.5))

    def is_right(cat: Found, *house: Found) -> bool | None:
        things = (cat, *(replace(found, object="house") for found in house))
        return mark(asked, Judgement("beach", "day", "clear", "picture book", things)).is_relation_right

    right = {"in front of": (True, False), "above": (False, True)}.get(str(relation), (None, None))
    assert (is_right(lower, higher), is_right(higher, lower)) == right
    assert is_right(lower) == (False if any(right) else None)
    for wrong in ({"object": "dog"}, {"colour": "blue"}):  # another thing that is in front or above is no answer
        marks = {is_right(replace(cat, **wrong), house) for cat, house in ((lower, higher), (higher, lower))}
        assert marks == ({False} if any(right) else {None})


def test_prompts_are_the_same_for_a_seed_and_held_out_where_they_say() -> None:
    once, again, other = (prompts.ask(6, 2, seed) for seed in (1, 1, 2))
    assert once == again
    assert once != other
    assert all(len(asked.picture.things) == 2 for asked in once)
    assert not any((t.object, t.colour) in HELD_OUT for asked in once for t in asked.picture.things)
    for asked in prompts.ask(6, 1, 1, held_out=True):
        thing = asked.picture.things[0]
        assert (thing.object, thing.colour) in HELD_OUT
        assert not world.unknown_words(asked.prompt)


def test_a_place_that_is_left_open_is_not_in_the_prompt() -> None:
    placed = re.compile(r"\b(left|right|middle|cent(er|re))\b")
    opened = [*prompts.ask_openly(40, 5), *prompts.add(40, 5, 16, is_placed=False)]
    assert not [asked.prompt for asked in opened if placed.search(asked.prompt)]
    assert all(placed.search(asked.prompt) for asked in prompts.add(40, 5, 16))


def test_a_thing_whose_place_is_open_is_right_anywhere_once() -> None:
    [asked], judge = prompts.ask_openly(1, 5), load_judge()
    thing = asked.picture.things[0]

    def is_right(*things: Thing) -> bool:
        picture = replace(asked.picture, things=things)

        def drawn(some: Sequence[prompts.Asked]) -> list[Judgement]:
            return judge.judge([world.draw(picture, 256)] * len(some))

        return {f.name: f.value for f in language.figures(drawn, drawn, 1, 5)}["place_left_open"] == 100

    others = [replace(thing, position=name) for name in POSITIONS]
    assert [is_right(one) for one in others] == [True] * 3
    assert not is_right(others[0], others[2])
    assert not is_right(replace(thing, colour="blue" if thing.colour == "red" else "red"))
    assert not is_right()


def test_what_is_asked_for_can_be_seen() -> None:
    asked = [*prompts.ask_twice(200, 0), *prompts.ask_freely(200, 0), *prompts.ask(100, 3, 0)]
    assert all(is_clear(one.picture) for one in asked)


def test_the_mask_covers_all_that_is_to_come() -> None:
    for asked in prompts.add(12, 3, 128):
        whole = np.asarray(world.draw(asked.picture, 128), dtype=int)
        changed = np.abs(whole - np.asarray(asked.image, dtype=int)).max(axis=2) > 24
        outside = np.asarray(asked.mask) == 0
        assert changed.any()
        assert (changed & outside).sum() <= 0.02 * changed.sum(), asked.prompt


def test_a_recoloured_prompt_differs_in_the_colour_alone() -> None:
    for asked in prompts.recolour(6, 3, 64):
        [seen] = load_judge().judge([asked.image])
        assert asked.image.size == (64, 64)
        assert asked.picture.things[0].colour != next((t.colour for t in seen.things), "")


def drawer(seed: int, count: int, draw: Callable[[Picture], Image.Image]) -> Draw:
    """Draws each request by what its prompt was made from, in place of a model."""
    known = {}
    for things in (1, 2, 3):
        known |= {asked.prompt: asked.picture for asked in prompts.ask(count, things, seed)}
    known |= {asked.prompt: asked.picture for asked in prompts.ask(count, 1, seed, held_out=True)}
    known |= {asked.prompt: asked.picture for asked in prompts.recolour(count, seed, 16)}
    known |= {asked.prompt: asked.picture for asked in prompts.add(count, seed, 16)}
    known |= {asked.prompt: asked.picture for asked in prompts.add(count, seed, 16, is_placed=False)}
    known |= {asked.prompt: asked.picture for asked in prompts.ask_freely(count, seed)}
    known |= {asked.prompt: asked.picture for asked in prompts.ask_openly(count, seed)}
    known |= {asked.prompt: asked.picture for asked in prompts.ask_twice(count, seed)}
    denied = {asked.prompt: asked.picture for asked in prompts.deny(count, seed)}
    unprompted = {asked.seed: asked.picture for asked in prompts.ask_nothing(count, seed)}
    opened = dict(prompts.open_prompt(seed, k) for k in range(3))

    def drawn(requests: Sequence[AnyRequest]) -> list[Made]:
        made = []
        for request in requests:
            if request.prompt in opened:
                rng = np.random.default_rng(request.seed)
                picture = prompts.meant_by_open_prompt(opened[request.prompt], rng)
            elif not request.prompt:
                picture = unprompted[request.seed]
            else:
                picture = known.get(request.prompt) or denied[request.prompt]
                if request.negative_prompt:
                    picture = replace(picture, relation=None, things=picture.things[:1])
            made.append(Made(draw(picture), 1.0, 0.1))
        return made

    return drawn


def evaluator(draw: Draw) -> Evaluator:
    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> list[list[float]]:
        return [[float(k == j) for j in range(len(captions))] for k in range(len(images))]

    return Evaluator(draw, score, load_judge(), EMBEDDED_FOLDER, {}, seed=5)


def test_a_perfect_drawer_is_right_and_a_careless_one_is_not() -> None:
    right = {f.name: f for f in evaluator(drawer(5, 20, lambda p: world.draw(p, 256))).figures(20)}
    assert set(BARS) <= set(right)
    for name in ("scene", "object", "colour", "object_one_object", "colour_one_object"):
        assert right[name].value >= 70
        assert right[name].value == right[name].world
    assert right["image_to_image_recoloured"].value >= 50  # of four
    assert right["inpaint_added"].value >= 50
    assert right["inpaint_added_where_the_mask_is"].value >= 50
    assert right["negative_prompt_removes"].value >= 75  # of four
    for name in ("other_words", "place_left_open", "two_alike", "unmistakable_without_prompt"):
        assert right[name].value == right[name].world >= 50  # of four
    assert 60 <= right["diversity"].value <= 160
    assert right["clip_right_among_20"].value == 100
    assert right["picture_s"].value == 1.0

    meadow = Picture("meadow", "day", "clear", "picture book", (), None, 0)
    wrong = {f.name: f for f in evaluator(drawer(5, 20, lambda p: world.draw(meadow, 256))).figures(20)}
    for name in (
        "object",
        "colour",
        "all_correct_one_object",
        "image_to_image_recoloured",
        "inpaint_added",
        "inpaint_added_where_the_mask_is",
        "negative_prompt_removes",
        "other_words",
        "place_left_open",
        "two_alike",
        "unmistakable_without_prompt",
        "diversity",
    ):
        assert wrong[name].value == 0
        assert wrong[name].is_met in (False, None)
    assert wrong["object"].world == right["object"].world


def test_a_denied_thing_that_is_still_there_is_not_removed() -> None:
    shown = [True]

    def draw(requests: Sequence[AnyRequest]) -> list[Made]:
        asked = prompts.deny(4, 5)
        if [request.prompt for request in requests] == [a.prompt for a in asked]:
            assert [r.negative_prompt for r in requests] == [f"no {a.picture.things[1].object}" for a in asked]
            shown.append(True)
            return [Made(world.draw(a.picture, 256), 1.0, 0.1) for a in asked]
        return [Made(Image.new("RGB", (256, 256)), 1.0, 0.1) for _ in requests]

    figures = {f.name: f.value for f in evaluator(draw).language(4)}
    assert len(shown) == 2
    assert figures["negative_prompt_removes"] == 0


def test_a_mixture_of_two_things_is_not_unmistakable_and_one_thing_is() -> None:
    cat = Picture("meadow", "day", "clear", "picture book", (replace(CAT, size="large"),), None, 4)
    tent = replace(cat, things=(replace(cat.things[0], object="tent"),))
    pictures = {name: world.draw(picture, 256) for name, picture in (("cat", cat), ("tent", tent))}
    pictures["both"] = Image.blend(pictures["cat"], pictures["tent"], 0.5)
    judge = load_judge()

    def unmistakable(name: str) -> float:
        def judged(asked: Sequence[prompts.Asked]) -> list[Judgement]:
            return judge.judge([pictures[name]] * len(asked))

        return {f.name: f.value for f in language.figures(judged, judged, 2, 5)}["unmistakable_without_prompt"]

    assert (unmistakable("cat"), unmistakable("tent")) == (100, 100)
    assert unmistakable("both") < 100


def test_the_old_thing_left_beside_the_new_one_is_no_change_of_colour() -> None:
    def beside(picture: Picture) -> Picture:
        wanted = picture.things[0]
        colour = "blue" if wanted.colour == "red" else "red"
        position = "right" if wanted.position == "left" else "left"
        return replace(picture, things=(wanted, replace(wanted, colour=colour, position=position)))

    known = {asked.prompt: asked.picture for asked in prompts.recolour(12, 5, 16)}

    def right(change: Callable[[Picture], Picture]) -> float:
        def draw(requests: Sequence[AnyRequest]) -> list[Made]:
            return [Made(world.draw(change(known[request.prompt]), 256), 1.0, 0.1) for request in requests]

        return evaluator(draw).recoloured(12).value

    assert right(lambda picture: picture) >= 90
    assert right(beside) == 0


def test_the_bars_are_at_least_or_at_most() -> None:
    assert share("scene", [True] * 49 + [False]).is_met
    assert not share("scene", [True] * 47 + [False] * 3).is_met
    assert Figure("picture_s", 1.4, "s", 3, bar=1.5).is_met
    assert not Figure("weights_mb", 41.0, "MB", 3, bar=40.0).is_met
    assert Figure("size", 10.0, "%", 3).is_met is None
    told = as_lines([share("scene", [True, False], [True, True]), Figure("picture_s", 1.4, "s", 3, bar=1.5)])
    assert "MISSED" in told
    assert "reached" in told
    assert json.loads(json.dumps(as_json([share("scene", [True])])))["scene"]["value"] == 100


def test_seconds_have_a_bar_only_where_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(requests: Sequence[AnyRequest]) -> list[Made]:
        return [Made(Image.new("RGB", (8, 8)), 1.0, 0.1) for _ in requests]

    def is_met(cores: int = 2, **other: bool) -> list[bool | None]:
        monkeypatch.setattr("torch.get_num_threads", lambda: cores)
        figures = replace(evaluator(draw), **other).seconds(1)
        assert [f.value for f in figures] == [1.0, 0.1]
        return [f.is_met for f in figures]

    assert is_met() == [True, True]
    assert is_met(cores=8) == is_met(is_on_cpu=False) == is_met(is_as_usual=False) == [None, None]


@pytest.mark.parametrize(("options", "is_as_usual"), [({}, True), ({"guidance_scale": 3.5}, True),
                                                      ({"num_inference_steps": 5}, False)])  # fmt: skip
def test_the_command_knows_where_and_how_it_draws(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], is_as_usual: bool
) -> None:
    monkeypatch.setenv("SD_DEMO_DEVICE", "cpu")
    monkeypatch.setattr("sd_demo.engine.Engine.start", lambda _: None)
    with door._evaluator(door._parser("evaluate", "").parse_args([]), options) as made:
        assert made.is_on_cpu
        assert made.is_as_usual is is_as_usual


def test_distance_of_pictures() -> None:
    black, white = (Image.new("RGB", (256, 256), value) for value in ((0, 0, 0), (255, 255, 255)))
    assert mean_distance([black, black, black]) == 0
    assert mean_distance([black, white]) == 255


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--count", "0"], "count must be"),
        (["--seed", "-1"], "seed must be"),
        (["--weights", "nowhere"], "no model at nowhere"),
        (["--scheduler", "best"], "scheduler must be one of"),
        (["--steps", "0"], "num_inference_steps must be"),
        (["--guidance", "nan"], "guidance_scale must be"),
        (["--what"], "--help"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        run(["evaluate", *arguments])


def test_the_command_draws_with_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--count", "1", "--steps", "1", "--guidance", "1", "--json", "--seed", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["num_inference_steps"] == 1
    assert set(BARS) - {"clip_right_among_20"} <= set(told["figures"])
    assert told["figures"]["weights_mb"]["value"] > 1
    assert told["figures"]["picture_s"]["value"] > told["figures"]["decode_s"]["value"] > 0


def test_an_evaluation_is_the_same_for_a_seed() -> None:
    options = door._parser("evaluate", "").parse_args(["--count", "2", "--seed", "4"])
    asked = prompts.ask(2, 1, 4)
    with door._evaluator(options, {"num_inference_steps": 2, "height": 64, "width": 64}) as first:
        made = [m.image for m in first.draw([door.parse_request("text_to_image", _values(a)) for a in asked])]
        again = [m.image for m in first.draw([door.parse_request("text_to_image", _values(a)) for a in asked])]
    for one, other in zip(made, again, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


def test_the_limits_of_a_server_are_none_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"SPACE_ID": "someone/space", "GRADIO_SERVER_NAME": "0.0.0.0", "SD_DEMO_PROFILE": "shared"}
    limits = {"SD_DEMO_MAX_STEPS": "10", "SD_DEMO_MAX_VISITOR_JOBS": "1", "SD_DEMO_MAX_QUEUE": "3"}
    for name, value in {**own, **limits, "SD_DEMO_DTYPE": "float32"}.items():
        monkeypatch.setenv(name, value)
    settings = door._engine_settings()
    assert settings.limits == Limits()
    assert settings.max_queue >= door.AHEAD
    assert settings.dtype == "float32"


def _values(asked: prompts.Asked) -> dict[str, object]:
    return {"prompt": asked.prompt, "seed": asked.seed, "num_inference_steps": 2, "height": 64, "width": 64}


def test_help_tells_what_is_tried_where_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for command, told in (("sweep", door.SWEPT.values()), ("evaluate", ["the model's own default"])):
        with pytest.raises(SystemExit):
            run([command, "--help"])
        printed = capsys.readouterr().out
        assert all(f"[{default}]" in printed for default in told)


@pytest.mark.parametrize("output", ["sweep", "folder.png", "file/sweep.png"])
def test_where_a_sweep_cannot_be_drawn_is_said_before_the_work(tmp_path: Path, output: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidRequest, match=r"^output: .* (must be the name of a \.png file|cannot be written)"):
        run(["sweep", "--output", str(tmp_path / output), "--weights", str(tmp_path / "none")])


def test_a_sweep_is_drawn_with_its_best_cell_framed(tmp_path: Path) -> None:
    perfect = replace(evaluator(drawer(5, 4, lambda p: world.draw(p, 256))), seed=5)
    cell = measure_cell(perfect, {"scheduler": "euler", "num_inference_steps": 10, "guidance_scale": 3.0}, 4)
    assert cell.right > 0
    assert "euler, 10 steps, guidance 3" in cell.told()
    worse = Cell("ddim", 10, 3.0, 4, 0.0, 0.1)
    draw_table([cell, worse, replace(worse, guidance_scale=5.0)], tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.width > 300
        assert len(image.convert("RGB").getcolors(1 << 16) or []) > 5
