"""The tab on which a pole is moved, and its kernel seen and heard."""

import html
from typing import Any

from .kernels import bank_of, in_words, kernel_picture, layers_of, pole_at, pole_picture, sound_of

_EXPLAINED = (
    "A pole Λ makes the mode Λ^l: its magnitude says how fast the mode fades, its angle how fast it turns. The kernel "
    "of a channel is the weighted sum of its modes. Move a pole by its sliders, or click in the disk where it shall go:"
    " see and hear what becomes of the kernel. The model itself stays as it is."
)


def kernel_tab(gr: Any, page: Any, model: Any) -> None:
    """Add the controls, figures and sound to the tab that is open.

    Args:
        gr: Gradio.
        page: that shows the tab, and draws when it is loaded.
        model: whose poles are moved, in a copy.
    """
    layers = layers_of(model)
    start = bank_of(layers, 0, 0)
    heaviest = int(start.poles().weights.argmax())
    magnitude, angle = start.pole(heaviest)
    gr.Markdown(_EXPLAINED if layers else f"{_EXPLAINED} This model has no poles, so here is one of no model.")
    with gr.Row():
        with gr.Column(min_width=300):
            most = (len(layers) - 1, layers[0][1] - 1) if layers else (0, 0)
            layer = gr.Slider(0, max(1, most[0]), 0, step=1, label="layer", buttons=[], visible=most[0] > 0)
            channel = gr.Slider(0, max(1, most[1]), 0, step=1, label="channel", buttons=[], visible=most[1] > 0)
            last = max(1, start.count - 1)
            number = gr.Slider(0, last, heaviest, step=1, label="pole", buttons=[], visible=start.count > 1)
            fine: dict[str, Any] = {"step": 0.0001, "buttons": []}
            size = gr.Slider(0, 1, round(magnitude, 4), label="magnitude of the pole", **fine)
            turn = gr.Slider(-3.1416, 3.1416, round(angle, 4), label="angle of the pole (radians per step)", **fine)
            back = gr.Button("Put the pole back")
            words = gr.HTML(elem_classes="said")
            sound = gr.Audio(label="The kernel as sound, 8,000 steps a second", interactive=False, buttons=["download"])
        pictures = {"show_label": False, "interactive": False, "buttons": [], "format": "png"}
        with gr.Column(min_width=300):
            disk = gr.Image(alt_text="The poles in the unit disk, with a ring around the one that moves", **pictures)
        with gr.Column(min_width=300):
            curves = gr.Image(alt_text="The kernel before and now: first steps, frequency response", **pictures)

    def place(layer: int, channel: int, number: int) -> list[Any]:
        bank = bank_of(layers, int(layer), int(channel))
        number = min(int(number), bank.count - 1)
        size, turn = bank.pole(number)
        last = max(1, bank.count - 1)
        return [gr.Slider(maximum=last, value=number, visible=bank.count > 1), round(size, 4), round(turn, 4)]

    def draw(layer: int, channel: int, number: int, size: float, turn: float) -> list[Any]:
        try:
            before = bank_of(layers, int(layer), int(channel))
            number = min(int(number), before.count - 1)
            after = before.moved(number, float(size), float(turn))
            pictures = [pole_picture(after, number), kernel_picture(before, after)]
            sentence = f"<p>{html.escape(after.name)}, pole {number}. {in_words(float(size), float(turn))}</p>"
            return [sentence, sound_of(after), *pictures]
        except (ImportError, ValueError) as error:
            return [f'<p class="wrong">Error: {html.escape(str(error))}</p>', None, None, None]

    chosen, shown = [layer, channel, number], [words, sound, disk, curves]
    inputs, moved = [*chosen, size, turn], [number, size, turn]
    options: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
    gr.on([each.input for each in chosen] + [back.click], place, chosen, moved, **options).then(
        draw, inputs, shown, show_progress="hidden"
    )

    def point(event: gr.SelectData) -> list[float]:
        return [round(value, 4) for value in pole_at(*event.index)]

    disk.select(point, None, [size, turn], **options).then(draw, inputs, shown, show_progress="hidden")
    gr.on([size.input, turn.input], draw, inputs, shown, api_name="kernel", **options)
    page.load(draw, inputs, shown, show_progress="hidden")
