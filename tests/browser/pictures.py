"""The pictures of pages in docs/: the README's first example, and handwritten digits out of noise.

    .venv/bin/python tests/browser/pictures.py docs

It needs what `make test-browser` has set up.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from chromium import open_chromium, set_scheme, set_size
from PIL import Image

import feynkac as fk

SHOTS = (
    # Name, run, scheme, size of the window, what is done before.
    ("page-text", "text", "light", (1200, 1010), ""),
    ("page-text-dark", "text", "dark", (1200, 1010), ""),
    ("page-text-narrow", "text", "light", (800, 1180), ""),
    ("page-digits", "digits", "light", (1200, 1010), ""),
)


def write_text(path: Path) -> None:
    """The README's first example, with half as many particles."""
    from feynkac.models.language.demo import demo_model_path

    lm = fk.CausalLM.from_pretrained(str(demo_model_path()))
    task = lm.prompt("It was a dark and windy night, and", max_tokens=30)
    fk.steer(task, fk.regex(r"[^eE\n]{80,}"), particles=16, islands=4, seed=0).to_html(path)


def write_digits(path: Path) -> None:
    """Threes from a model that knows of no classes."""
    from feynkac.models.diffusion.folder import open_pipeline
    from feynkac.programs.recipes.diffusion import of_class
    from feynkac.programs.recipes.diffusion.classes import digit_classifier

    pipe = open_pipeline("benchmarks/train/digits")
    fk.steer(*of_class(pipe, digit_classifier(), label=3, steps=20), particles=24, islands=4, seed=0).to_html(path)


def shoot(driver: Any, size: tuple[int, int]) -> Image.Image:
    """What the window shows, in few colours, which takes a quarter of the bytes."""
    set_size(driver, *size, scale=1.5)
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    whole = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    return whole.quantize(192, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def main(folder: Path) -> None:
    """Make all pictures anew."""
    with tempfile.TemporaryDirectory() as place:
        pages = {"text": Path(place, "text.html"), "digits": Path(place, "digits.html")}
        write_text(pages["text"])
        write_digits(pages["digits"])
        driver = open_chromium(Path(place, "profile"))
        try:
            for name, run, scheme, size, script in SHOTS:
                set_scheme(driver, scheme)
                set_size(driver, *size, scale=1.5)
                driver.get(pages[run].as_uri())
                driver.execute_script(script)
                shoot(driver, size).save(folder / f"{name}.png", optimize=True)
        finally:
            driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
