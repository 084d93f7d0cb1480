"""Settings back from a picture: what comes back and what does not stands in words, then one button applies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import InvalidImage, PlaygroundError
from sd_demo.restore import restore
from sd_demo.restored import Restored
from sd_demo.schedulers import available
from sd_demo.ui import controls, header, memory, status_line, style_picker, upscale
from sd_demo.ui.header import Header
from sd_demo.ui.run import Tab
from sd_demo.ui.uploads import uploaded_file
from sd_demo.weight_hashes import other_weights

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = "settings-back"
TITLES: Final = {
    "text_to_image": "Text to image",
    "image_to_image": "Image to image",
    "inpaint": "Inpaint",
    upscale.NAME: upscale.TITLE,
}
REST: Final = "All other settings go back to what suits the model."
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class SettingsBack:
    """Its components; `restored` holds what the button will apply, or None."""

    drop: gr.File
    report: gr.HTML
    apply: gr.Button
    restored: gr.State

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `failed` update."""
        return [self.report, self.apply, self.restored]


def build() -> SettingsBack:
    """Lay it out where this is called."""
    drop = gr.File(
        label="Settings from a picture: one of ours, or one with A1111's parameters",
        file_count="single",
        type="filepath",
        height=150,
        elem_id=f"{NAME}-file",
    )
    report = gr.HTML("", elem_id=f"{NAME}-report", elem_classes=["restored"], js_on_load=None)
    apply = gr.Button("Apply these settings", variant="primary", visible=False, elem_id=f"{NAME}-apply")
    return SettingsBack(drop, report, apply, gr.State(None))


def listen(
    engine: Engine,
    back: SettingsBack,
    top: Header,
    kept: gr.BrowserState,
    tabs: Mapping[str, Tab | upscale.UpscaleTab],
    chosen: Mapping[str, gr.State],
    chooser: gr.Tabs,
) -> None:
    """Wire the drop zone and the button.

    kept: the model that the browser keeps as chosen. chosen: by tab, the model whose defaults its controls follow.
    """
    styles = {task: tab.style for task, tab in tabs.items() if isinstance(tab, Tab)}

    def read(file: Any) -> dict[Any, Any]:
        if file is None:
            return failed(back, "")
        try:
            path = uploaded_file(file, field="The file")
            if path is None:
                raise InvalidImage("Drop a picture first.")
            folder = engine.settings.lora_dir
            restored = restore(path, registry=engine.registry, lora_dir=folder, schedulers=available())
            return show(engine, back, restored)
        except PlaygroundError as error:
            return failed(back, str(error))

    def apply(restored: Restored | None, model: Any) -> dict[Any, Any]:
        if restored is None:
            return {chooser: gr.skip()}
        task, wanted = restored.task, restored.values.get("model")
        try:
            entry = engine.defaults(wanted or model)
        except (PlaygroundError, TypeError):
            raise gr.Error(
                "The model of these settings is no longer here; choose another one, then bring them back again.",
                print_exception=False,
            ) from None
        updates: dict[Any, Any] = {
            control: controls.held_value(
                task, name, restored.values.get(name, controls.default_value(task, name, entry))
            )
            for name, control in tabs[task].controls.items()
        }
        # They belong to this model already: its choice, which follows, must leave them as they are.
        updates[chosen[task]] = entry.name
        if wanted:
            updates[top.model] = gr.update(choices=header.choices(engine), value=entry.name)
            updates[kept] = memory.as_kept(top, entry.name)
        bare = {styles[task]: style_picker.NONE} if task in styles else {}  # its words came with the prompt, if any
        return {chooser: gr.Tabs(selected=task), **bare, **updates}

    back.drop.change(read, [back.drop], back.outputs, preprocess=False, **_PRIVATE)
    changed = [*chosen.values(), *styles.values(), *(c for tab in tabs.values() for c in tab.controls.values())]
    back.apply.click(
        apply,
        [back.restored, top.model],
        [chooser, top.model, kept, *changed],
        preprocess=False,
        **_PRIVATE,
    )


def show(engine: Engine, back: SettingsBack, restored: Restored) -> dict[Any, Any]:
    """The updates that tell what `restored` will bring, and offer it."""
    registry, folder, receipt = engine.registry, engine.settings.lora_dir, restored.receipt
    others = other_weights(receipt, registry=registry, lora_dir=folder) if receipt is not None else []
    return {
        back.report: report(restored, others),
        back.apply: gr.update(visible=True, value=f"Apply to {TITLES[restored.task]}"),
        back.restored: restored,
    }


def failed(back: SettingsBack, sentence: str) -> dict[Any, Any]:
    """The updates that say why nothing comes back; an empty sentence clears all."""
    line = status_line.failed(sentence) if sentence else ""
    return {back.report: line, back.apply: gr.update(visible=False), back.restored: None}


def report(restored: Restored, others: Sequence[str] = ()) -> str:
    """Two lists in escaped words: what comes back, and what does not, `others` (sentences on weights) among it."""
    rows = "".join(
        f"<dt>{escape(_label(name))}</dt><dd>{escape(_words(value))}</dd>"
        for name, value in restored.values.items()
        if value != ""
    )
    lost = "".join(f'<li class="differs">{escape(sentence)}</li>' for sentence in (*others, *restored.cannot))
    cannot = f'<h4>Does not come back</h4><ul class="notes">{lost}</ul>' if lost else ""
    return f"<h4>Comes back, for {TITLES[restored.task]}</h4><dl>{rows}</dl>{cannot}<p>{REST}</p>"


def _label(name: str) -> str:
    return controls.LOOKS[name].label if name in controls.LOOKS else name.capitalize()


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{lora['name']} ({lora['weight']:g})" for lora in value)
    return str(value)
