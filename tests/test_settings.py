"""Flags win over variables, variables over defaults; what cannot be used is said in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from sd_demo.errors import InvalidRequest
from sd_demo.limits import PROFILES
from sd_demo.settings import Settings, writable_folder


def test_defaults_serve_this_machine_only() -> None:
    settings = Settings.read(environment={})
    assert (settings.host, settings.port, settings.share, settings.auth) == ("127.0.0.1", 7860, False, None)


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default() -> None:
    environment = {"SD_DEMO_PORT": "8000", "SD_DEMO_DEVICE": "cpu", "SD_DEMO_SHARE": "1"}
    settings = Settings.read(["--port", "9000", "--no-share"], environment)
    assert (settings.port, settings.device, settings.share) == (9000, "cpu", False)


def test_a_space_is_reached_from_outside_and_gradios_own_variables_count_below_ours() -> None:
    assert Settings.read(environment={"SPACE_ID": "me/x"}).host == "0.0.0.0"
    environment = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "8000", "SD_DEMO_PORT": "9000"}
    settings = Settings.read(environment=environment)
    assert (settings.host, settings.port) == ("0.0.0.0", 9000)
    assert Settings.read(["--host", "127.0.0.1"], environment).host == "127.0.0.1"


def test_an_empty_variable_is_none() -> None:
    assert Settings.read(environment={"SD_DEMO_PORT": "", "SD_DEMO_MODEL": ""}) == Settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_field_has_a_flag_a_variable_and_a_help(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert Settings.model_fields[name].description in " ".join(Settings.parser().format_help().split()).replace(
        "\n", " "
    )
    assert flag in Settings.parser().format_help()
    good = {"port": "81", "share": "true", "auth": "me:pass", "device": "cpu", "dtype": "float32", "attention": "sdpa"}
    good |= {
        "profile": "shared",
        "max_side": "512",
        "takes_paths": "false",
        "log_format": "json",
        "log_prompts": "true",
        "safety_checker": "false",
        "cuda_graphs": "false",
        "compile": "on",
        "memory": "one_at_a_time",
    }
    value = good.get(name, "4")
    switches = {
        "share": flag,
        "log_prompts": flag,
        "safety_checker": "--no-safety-checker",
        "cuda_graphs": "--no-cuda-graphs",
    }
    by_flag = Settings.read([switches[name]] if name in switches else [flag, value], {})
    assert by_flag == Settings.read(environment={f"SD_DEMO_{name.upper()}": value})
    assert by_flag != Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "abc"), ("port", "-1"), ("port", "65536"), ("port", "78.6"), ("share", "maybe"), ("device", "tpu"),
        ("dtype", "float8"), ("attention", "flash"), ("memory", "4"), ("compile", "true"), ("max_queue", "0"),
        ("max_rows", "1"),
        ("profile", "public"), ("max_side", "63"), ("max_steps", "0"), ("max_images", "17"), ("max_visitor_jobs", "-1"),
        ("auth", "nobody"), ("auth", ":secret"), ("auth", "me:"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_with_both_its_names(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.read(environment={f"SD_DEMO_{name.upper()}": value})
    text = str(caught.value)
    assert caught.value.field == name
    assert f"SD_DEMO_{name.upper()} or --{name.replace('_', '-')} cannot be " in text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("flag", ["--prot=7861", "--shar", "7861"])
def test_a_flag_that_is_none_is_said_in_one_sentence_also_one_that_is_cut_short(flag: str) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^app\.py: unrecognized arguments: [^\n]*; --help tells what it takes\.$"
    ):
        Settings.read([flag])


def test_a_password_is_never_repeated() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.read(["--auth", "hunter2"], {})
    assert "hunter2" not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_a_folder_that_can_be_written_is_made_and_taken(tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "outputs"
    assert writable_folder(wanted) == (wanted, None)
    assert list(wanted.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    folder, sentence = writable_folder(blocked / "outputs")
    assert folder.is_dir()
    assert os.access(folder, os.W_OK)
    assert sentence is not None
    assert str(folder) in sentence
    assert str(blocked) in sentence
    folder.rmdir()


@pytest.mark.parametrize(
    ("arguments", "space", "profile"),
    [
        ([], "", "local"),
        (["--share"], "", "shared"),
        (["--host", "0.0.0.0"], "", "shared"),
        (["--host", "localhost"], "", "local"),
        ([], "someone/playground", "space"),
        (["--profile", "local", "--share"], "someone/playground", "local"),
    ],
)
def test_the_profile_follows_from_who_can_reach_the_page(
    arguments: list[str], space: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", space)
    assert Settings.read(arguments, {}).effective_profile == profile


def test_a_limit_that_is_set_wins_over_the_profile() -> None:
    limits = Settings.read(["--profile", "space", "--max-steps", "99"], {}).limits
    assert limits == PROFILES["space"].model_copy(update={"max_steps": 99})


def test_on_ones_own_machine_nothing_is_limited_beyond_the_request() -> None:
    limits = Settings().limits
    assert (limits.max_visitor_jobs, limits.max_device_seconds) == (0, 0)
    assert (limits.max_side, limits.max_steps, limits.max_images) == (1024, 150, 16)


def test_a_hosted_profile_is_never_wider_than_a_local_one() -> None:
    for name in ("max_side", "max_steps", "max_images", "max_prompt_characters"):
        local, shared, space = (getattr(PROFILES[profile], name) for profile in ("local", "shared", "space"))
        assert space <= shared <= local, name


@pytest.mark.parametrize(
    ("arguments", "age_s", "is_all"),
    [
        ([], None, False),
        (["--share"], 3600, False),
        (["--profile", "space"], 3600, True),
        (["--picture-hours", "0.5"], 1800, True),
        (["--share", "--picture-hours", "0"], None, True),
    ],
)
def test_pictures_expire_where_others_can_reach_the_page(
    arguments: list[str], age_s: float | None, is_all: bool
) -> None:
    settings = Settings.read(arguments, {})
    assert (settings.picture_age_s, settings.expires_older_pictures) == (age_s, is_all)
