"""The page itself: a tab for the model's answers, and one for its poles."""

import html
import os
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from .answers import Answer, Answerer, Field, Part
from .folders import answerer_of
from .kernel_page import kernel_tab

_STYLE = """
.wrong {color: #b00020; font-weight: 600}
.dark .wrong {color: #ff8a80}
.gradio-container span.label {text-transform: none !important}
.textfield span.label {background-color: #333 !important}
.textfield span.text {white-space: pre-wrap}
footer {display: none !important}
"""
# With more labelled pieces than this, a legend names the labels, and not every piece its own.
_MOST_NAMED = 12
# Words that speak for an answer, and against it; other labels, neighbours far from each other.
_SIGNS = {"for": "green", "against": "red", "raises": "green", "lowers": "red"}
_HUES = ("blue", "orange", "green", "purple", "yellow", "pink", "cyan", "red", "lime", "teal")
# Colours of text with a contrast of 4.5 to 1 and more.
_COLOURS = {"button_primary_background_fill": "*primary_600"} | {
    f"{name}{dark}": f"*neutral_{shade}"
    for name in ("block_label_text_color", "block_info_text_color", "block_title_text_color", "body_text_color_subdued")
    for dark, shade in (("", 600), ("_dark", 300))
}
# So that readers who hear the page are told of every answer.
_ANNOUNCE = "() => document.querySelectorAll('.said').forEach((one) => one.setAttribute('aria-live', 'polite'))"


def gradio() -> Any:
    """Gradio, loaded when a page is made.

    Raises:
        ImportError: if it is not installed, with the command that installs it.
    """
    try:
        import gradio
    except ImportError:
        raise ImportError("The page needs Gradio, which is not installed: pip install 'modeling-dlr[demo]'") from None
    return gradio


def demo_page(folder: str | os.PathLike[str], device: str = "cpu", *, title: str | None = None) -> Any:
    """A page on which a saved model answers, and its poles are moved.

    Args:
        folder: where `modeling-dlr train` or ``save_pretrained`` has saved a model of this library.
        device: such as "cpu" or "cuda".
        title: of the page; None is the name of the folder.

    Returns:
        The ``gradio.Blocks``, for `launch`.

    Raises:
        ImportError: if Gradio is not installed.
        ValueError: for a folder of no model that answers a reader.
    """
    gr = gradio()
    answerer = answerer_of(folder, device)
    name = title or Path(folder).resolve().name
    with gr.Blocks(title=f"{name} - modeling-dlr", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}")
        with gr.Tab("Answers"):
            _answer_tab(gr, answerer)
        with gr.Tab("Poles and kernels"):
            kernel_tab(gr, page, answerer.model)
        page.load(None, js=_ANNOUNCE)
    return page


def launch(page: Any, host: str | None = None, port: int | None = None, *, wait: bool = False) -> str:
    """Serve a page from this process until `close`.

    Args:
        page: from `demo_page`.
        host: None is this machine alone, or what GRADIO_SERVER_NAME says; "0.0.0.0" lets other machines in.
        port: None is the first free one from 7860.
        wait: until the process is interrupted, as the program of a Space does.

    Returns:
        Its address.

    Raises:
        OSError: if the port is taken.
    """
    gr = gradio()
    look: dict[str, Any] = {
        "primary_hue": "indigo",
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }
    _, address, _ = page.launch(
        server_name=host, server_port=port, prevent_thread_lock=not wait, quiet=True, share=False, inbrowser=False,
        ssr_mode=False, theme=gr.themes.Default(**look).set(**_COLOURS), css=_STYLE,
    )  # fmt: skip
    return address


def close(page: Any) -> None:
    """Stop serving a page."""
    page.close(verbose=False)


def said(sentence: str, *, wrong: bool = False) -> str:
    """A sentence as HTML; as an error in another colour, and so named."""
    return f'<p class="wrong">Error: {html.escape(sentence)}</p>' if wrong else f"<p>{html.escape(sentence)}</p>"


def respond(gr: Any, answerer: Answerer) -> Callable[..., list[Any]]:
    """What a page shows for the values of its fields: the sentence, and the parts that the answer has."""

    def responded(*values: Any) -> list[Any]:
        try:
            answer, sentence = answerer(*values), None
        except (ImportError, OSError, ValueError) as error:
            answer, sentence = Answer(""), said(" ".join(str(error).split()), wrong=True)
        parts = [gr.update(**_shown(answer, part)) for part in answerer.shows]
        return [sentence or said(answer.said), *parts]

    return responded


def _answer_tab(gr: Any, answerer: Answerer) -> None:
    gr.Markdown(answerer.instruction)
    with gr.Row():
        with gr.Column(min_width=300):
            fields = [_field(gr, one) for one in answerer.asks]
            button = gr.Button("Answer", variant="primary")
        with gr.Column(min_width=300):
            sentence = gr.HTML(said("The answer appears here."), elem_classes="said")
            parts = [_part(gr, part, answerer.labels) for part in answerer.shows]
    events = [button.click, *(field.submit for field in fields if isinstance(field, gr.Textbox))]
    gr.on(events, respond(gr, answerer), fields, [sentence, *parts], api_name="answer", show_progress="minimal")


def _field(gr: Any, field: Field) -> Any:
    if field.kind == "text":
        return gr.Textbox(label=field.label, lines=4, max_lines=20, info="Shift and Enter answer, too.")
    if field.kind == "sound":
        return gr.Audio(label=field.label, type="filepath", sources=["upload", "microphone"])
    if field.kind == "image":
        return gr.Image(label=field.label, type="filepath", sources=["upload", "clipboard"])
    if field.kind == "switch":
        return gr.Checkbox(label=field.label, value=field.value)
    least, largest, step = field.limits
    return gr.Slider(least, largest, field.value, step=step, label=field.label)


def _part(gr: Any, part: Part, labels: tuple[str, ...]) -> Any:
    if part == "scores":
        return gr.Label(visible=False, label="Probability of each label", num_top_classes=10, show_heading=False)
    if part == "pieces":
        colours = {label: _SIGNS.get(label, hue) for label, hue in zip(labels, cycle(_HUES), strict=False)}
        return gr.HighlightedText(visible=False, label="The text in colours", color_map=colours)
    if part == "regions":
        return gr.AnnotatedImage(visible=False, label="The image in colours")
    return gr.Dataframe(headers=["start (s)", "end (s)", "label", "score"], label="Spans", visible=False)


def _shown(answer: Answer, part: Part) -> dict[str, Any]:
    """A part of an answer, as the component takes it."""
    if part == "regions":
        value: Any = None if answer.regions is None else (answer.regions.image, _masks(answer.regions.masks))
    else:
        value = getattr(answer, part) or None
    shown = {"value": value, "visible": value is not None}
    if part == "pieces":
        many = sum(label is not None for _, label in answer.pieces) > _MOST_NAMED
        shown |= {"show_legend": many, "show_inline_category": not many}
    return shown


def _masks(masks: dict[str, Any]) -> list[tuple[Any, str]]:
    return [(mask.astype(float), label) for label, mask in masks.items()]
