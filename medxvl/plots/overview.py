"""Medical X-VL as one drawing: what goes in, what is learned from what, and what the parts are used
for.
"""

from medxvl.plots import style
from medxvl.plots.style import PALE, styled


@styled()
def overview(preset):
    """Encoders, momentum twins, queues, fusion, losses and tasks, with the sizes of `preset`; a
    schematic.
    """
    fig, box, arrow, ax = style.schematic(3.7, 54)
    box(0.5, 40, 13, 9, f"image\n{preset.image_size} px", PALE["image"])
    box(
        0.5, 17, 13, 9, "report, masked\n[CLS] $w_1$ [MASK] ...\nand its sentences", PALE["text"], 6
    )
    vision = f"vision encoder\n{preset.vision_layers} layers, width {preset.vision_width}"
    words = f"text encoder\n{preset.text_layers} layers, width {preset.text_width}"
    for y, told, colour in ((38, vision, PALE["image"]), (15, words, PALE["text"])):
        box(19.5, y - 1.6, 18, 13, "", "white", edge="--")
        box(18, y, 18, 13, told, colour, 6.5)
    told = (
        "dashed: momentum twins, running means;\ntheir outputs are soft targets and fill the queues"
    )
    ax.text(28, 9.6, told, ha="center", va="center", fontsize=6, color="0.3")
    box(
        43, 26, 20, 8, f"ITA: contrast of [CLS]\nqueues of {preset.queue_size:,}", PALE["head"], 6.5
    )
    box(
        43,
        38,
        20,
        11,
        f"fusion encoder\n{preset.fusion_layers} layers: words look\nat image patches",
        PALE["joint"],
        6.5,
    )
    box(68, 44, 12.5, 6, "ITM:\nmatched or not?", PALE["head"], 6)
    box(68, 36, 12.5, 6, "MLM:\nhidden words", PALE["head"], 6)
    box(68, 26, 12.5, 8, "one loss: the sum,\nITM twice", PALE["joint"], 6)
    arrow(13.8, 44.5, 17.4, 44.5)
    arrow(13.8, 21.5, 17.4, 21.5)
    arrow(38, 45, 42.4, 45)
    arrow(38, 41, 42.4, 32.5)
    arrow(38, 20, 42.4, 27.5)
    arrow(37.9, 26.2, 43.5, 37.2)
    arrow(63.4, 46, 67.4, 47)
    arrow(63.4, 41, 67.4, 39)
    arrow(63.4, 30, 67.4, 30)
    tasks = (
        "zero-shot detection",
        "unseen disease",
        "errors in reports",
        "retrieval",
        "report generation",
        "questions, answers",
        "word-to-image maps",
    )
    ax.text(91.5, 51, "used for", ha="center", fontsize=7)
    for k, task in enumerate(tasks):
        box(84, 45 - 6.1 * k, 15.3, 4.6, task, "white", 6)
    arrow(80.9, 40, 83.4, 40)
    told = (
        "ITA also between each sentence and the image (sentence-wise). Hard negatives of ITM "
        "are drawn by ITA's similarity; reports "
        "that say the same are none.\nThe vision encoder starts from self-supervised weights "
        "(iBOT), the text encoder from CXR-BERT."
    )
    ax.text(0.5, 2.5, told, fontsize=6, color="0.3", va="center")
    return fig
