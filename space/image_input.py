"""Where a visitor puts an image: a drop zone, and samples to click."""

from pathlib import Path

import gradio as gr

_SHOW = "() => Array(2).fill({ __type__: 'update', visible: true })"
_SAMPLES = ("digit-0.png", "digit-5.png", "flower.jpg", "temple.jpg")


def image_input(label: str, name: str, tab: gr.Tab) -> gr.Image:
    """An image input whose "change" event gives the path of the uploaded file or of a sample, None once it is removed.

    label: what to upload, and its limit. tab: where it is; it is shown from when that is opened, as Gradio loads the code of all components
    that are visible with the first page, those of closed tabs too.
    """
    image = gr.Image(
        type="filepath", sources=["upload"], image_mode=None, show_label=False, label=label, height=220, buttons=[],
        placeholder=f"# {label}\nDrop it here or click to upload", elem_id=name,
    )
    # Else Gradio opens the file before `uploads.open_upload` does, and has no clear message for one that is not an image.
    image.preprocess = lambda payload: payload.path if payload else None
    folder = Path(__file__).with_name("samples")
    samples = gr.Examples(
        [[str(folder / sample)] for sample in _SAMPLES], image, label="Or one of these", elem_id=f"{name}-samples", visible=False
    )  # fmt: skip
    image.visible = False  # not before: a sample that is clicked brings back what the image was when the samples were made
    tab.select(None, None, [image, samples.dataset], js=_SHOW, api_visibility="private")
    return image
