"""Draws the app's seal and the image tab's samples, once; what it draws is committed.

Usage: python -m tools.draw   (the receipt needs a font with Chinese, such as Noto Sans CJK)
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tools.served import ROOT

ICONS, SAMPLES = ROOT / "interface" / "icons", ROOT / "interface" / "samples"
SEAL, PAPER, INK = "#c3503a", "#fdf8ef", "#302f2c"
FONTS = Path("/usr/share/fonts/opentype/noto")

# 书 in four strokes on a square of 64, as lines with round ends.
STROKES = (
    ((17, 20), (42, 20), (40, 31)),
    ((12, 32), (51, 32), (49, 46), (42, 45)),
    ((29, 10), (29, 56)),
    ((44, 10), (50, 16)),
)
WIDTH = 4.6


def main() -> None:
    ICONS.mkdir(exist_ok=True)
    SAMPLES.mkdir(exist_ok=True)
    (ICONS / "seal.svg").write_text(svg(), encoding="utf-8")
    for name, side, rounded in (("seal-192", 192, True), ("seal-512", 512, True), ("seal-maskable", 512, False)):
        seal(side, rounded).save(ICONS / f"{name}.png", optimize=True)
    for name, image in (
        ("receipt", receipt()),
        ("chart", chart()),
        ("still-life", still_life()),
        ("formula", formula()),
    ):
        image.convert("RGB").save(SAMPLES / f"{name}.jpg", quality=82, optimize=True)


def svg() -> str:
    """The seal as vectors."""
    paths = "".join('<path d="M' + " L".join(f"{x} {y}" for x, y in stroke) + '"/>' for stroke in STROKES)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        f'<rect width="64" height="64" rx="11" fill="{SEAL}"/><g fill="none" stroke="#fff" stroke-width="{WIDTH}"'
        f' stroke-linecap="round" stroke-linejoin="round">{paths}</g></svg>\n'
    )


def seal(side: int, rounded: bool) -> Image.Image:
    """The seal as pixels; a maskable one fills its square and keeps the character within what no mask cuts off."""
    scale, big = side / 16, side * 4
    image = Image.new("RGBA", (big, big), (0, 0, 0, 0) if rounded else SEAL)
    draw = ImageDraw.Draw(image)
    if rounded:
        draw.rounded_rectangle((0, 0, big - 1, big - 1), 11 * scale, fill=SEAL)
    size = 1.0 if rounded else 0.8
    for stroke in STROKES:
        points = [tuple(scale * (32 + (one - 32) * size) for one in point) for point in stroke]
        line(draw, points, WIDTH * scale * size, "white")
    return image.resize((side, side), Image.Resampling.LANCZOS)


def line(draw: ImageDraw.ImageDraw, points: list[tuple[float, ...]], width: float, colour: str) -> None:
    """With round ends and corners."""
    draw.line([(x, y) for x, y in points], fill=colour, width=round(width), joint="curve")
    for x, y in points:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)


def font(size: int, name: str = "NotoSansCJK-Regular.ttc", index: int = 2) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / name), size, index=index)


def receipt() -> Image.Image:
    """A bill of a tea house, in Chinese and English."""
    image = Image.new("RGB", (720, 960), "#d8cdb8")
    draw = ImageDraw.Draw(image)
    draw.polygon([(70, 40), (650, 52), (642, 925), (60, 915)], fill="#fffdf7")
    draw.text((360, 120), "清和茶馆", INK, font(52, "NotoSerifCJK-Bold.ttc"), anchor="mm")
    draw.text((360, 176), "Qinghe Tea House", "#6b675e", font(26), anchor="mm")
    draw.text((110, 230), "2026-10-18  15:42     桌号 Table 7", "#6b675e", font(24))
    rows = (("龙井 Longjing", 2, 38), ("桂花糕 Osmanthus cake", 1, 22), ("瓜子 Melon seeds", 1, 12),
            ("小笼包 Soup dumplings", 3, 26))  # fmt: skip
    draw.line((110, 280, 610, 280), fill="#b5ad9b", width=2)
    for number, (name, count, price) in enumerate(rows):
        y = 310 + 62 * number
        draw.text((110, y), name, INK, font(28))
        draw.text((500, y), f"x{count}", INK, font(28), anchor="ra")
        draw.text((610, y), f"{count * price}.00", INK, font(28), anchor="ra")
    draw.line((110, 570, 610, 570), fill="#b5ad9b", width=2)
    total = sum(count * price for _, count, price in rows)
    draw.text((110, 596), "合计 Total", INK, font(34))
    draw.text((610, 596), f"¥{total}.00", SEAL, font(34), anchor="ra")
    draw.text((110, 664), "现金 Cash  ¥200.00", "#6b675e", font(26))
    draw.text((110, 706), f"找零 Change  ¥{200 - total}.00", "#6b675e", font(26))
    draw.text((360, 830), "谢谢光临 · Thank you", "#6b675e", font(28), anchor="mm")
    return image


def chart() -> Image.Image:
    """Bars with a title and values' axis."""
    image = Image.new("RGB", (960, 640), "#fdfbf5")
    draw = ImageDraw.Draw(image)
    draw.text((480, 56), "Visitors to the library, 2026 (thousands)", INK, font(30), anchor="mm")
    base, left = 540, 110
    for step in range(6):
        y = base - step * 82
        draw.line((left, y, 900, y), fill="#e2dccd", width=2)
        draw.text((left - 16, y), str(step * 10), "#6b675e", font(22), anchor="rm")
    for number, (month, value) in enumerate(
        (("Apr", 18), ("May", 27), ("Jun", 22), ("Jul", 41), ("Aug", 46), ("Sep", 31))
    ):
        x = left + 40 + number * 128
        draw.rectangle((x, base - value * 8.2, x + 72, base), fill=SEAL if month == "Aug" else "#46627f")
        draw.text((x + 36, base + 28), month, INK, font(24), anchor="mm")
    return image


def still_life() -> Image.Image:
    """A bowl with fruit, a vase and a window's light, in plain shapes."""
    image = Image.new("RGB", (960, 720), "#e9dfcb")
    draw = ImageDraw.Draw(image)
    draw.polygon([(560, 0), (960, 0), (960, 330), (700, 420)], fill="#f4ecdb")
    draw.rectangle((0, 470, 960, 720), fill="#8a6b4f")
    draw.ellipse((120, 560, 900, 690), fill="#7a5d44")
    for box, colour in (
        ((250, 350, 380, 480), "#d9822b"),
        ((350, 330, 480, 460), "#b8392f"),
        ((450, 360, 570, 480), "#8fa34a"),
    ):
        draw.ellipse(box, fill=colour)
        draw.ellipse((box[0] + 28, box[1] + 24, box[0] + 52, box[1] + 44), fill="#fff3dc")
    draw.pieslice((200, 330, 620, 640), 0, 180, fill="#46627f")
    draw.rectangle((360, 630, 460, 652), fill="#3a5069")
    draw.polygon([(700, 300), (800, 300), (830, 600), (670, 600)], fill="#7fa08f")
    draw.ellipse((670, 580, 830, 622), fill="#6d8f7e")
    draw.ellipse((700, 286, 800, 314), fill="#5f8070")
    for x, y, angle in ((720, 120, -0.25), (752, 80, 0.0), (786, 130, 0.3)):
        draw.line((750, 300, x, y), fill="#4d6b45", width=6)
        for petal in range(6):
            turn = angle + petal * math.pi / 3
            cx, cy = x + 30 * math.cos(turn), y + 30 * math.sin(turn)
            draw.ellipse((cx - 20, cy - 20, cx + 20, cy + 20), fill="#f2e9f0")
        draw.ellipse((x - 14, y - 14, x + 14, y + 14), fill="#e0b040")
    return image


def formula() -> Image.Image:
    """The root formula on squared paper, a little askew."""
    image = Image.new("RGB", (900, 480), "#fbf9f2")
    draw = ImageDraw.Draw(image)
    for x in range(0, 1400, 30):
        draw.line((x, 0, x, 900), fill="#dfe6ea", width=1)
        draw.line((0, x, 1400, x), fill="#dfe6ea", width=1)
    ink, serif = "#27407a", "NotoSerifCJK-Bold.ttc"
    draw.text((110, 205), "x =", ink, font(72, serif), anchor="lm")
    draw.line((280, 212, 800, 206), fill=ink, width=6)
    draw.text((290, 140), "−b ±", ink, font(60, serif), anchor="lm")
    draw.line([(462, 150), (480, 176), (506, 92), (790, 86)], fill=ink, width=6, joint="curve")
    draw.text((520, 140), "b² − 4ac", ink, font(60, serif), anchor="lm")
    draw.text((505, 270), "2a", ink, font(64, serif), anchor="lm")
    draw.text((110, 390), "a = 2,  b = −7,  c = 3", ink, font(44, serif), anchor="lm")
    return image.rotate(1.6, Image.Resampling.BICUBIC, fillcolor="#fbf9f2")


if __name__ == "__main__":
    main()
