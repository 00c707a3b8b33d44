"""Makes the JPEG files of this folder with libjpeg-turbo's cjpeg, and the pixels that Pillow (libjpeg-turbo too) decodes
from them: `python make.py` beside cjpeg and Pillow. One drawn picture, 41 x 27 pixels, in every sampling, process and
order of scans; files of one sampling hold the same coefficients, so that SAMPLING.png is the answer for all of them.
"""
import math
import subprocess
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SAMPLINGS = ["1x1", "2x1", "1x2", "2x2", "4x1", "1x1,2x2,2x2", "2x2,1x2,1x2", "2x1,1x2,1x1"]
SCANS = {"ycc": "0;\n1;\n2;\n", "chroma-first": "1;\n2;\n0;\n", "chroma-pair": "0;\n1,2;\n"}


def picture():
    image = Image.new("RGB", (41, 27))
    for y in range(27):
        for x in range(41):
            wave = math.sin(x / 3) * math.cos(y / 4)
            image.putpixel((x, y), (int(127 + 120 * wave), (5 * x + 2 * y) % 256, 230 if (x // 9 + y // 6) % 2 else 40))
    return image


def main():
    ppm = HERE / "picture.ppm"
    picture().save(ppm)
    scripts = {}
    for name, text in SCANS.items():
        scripts[name] = HERE / f"{name}.txt"
        scripts[name].write_text(text)
    kinds = {"baseline": [], "progressive": ["-progressive"], "restart": ["-restart", "2B"],
             "progressive-restart": ["-progressive", "-restart", "3B"], "arithmetic": ["-arithmetic"]}
    kinds |= {name: ["-scans", str(path)] for name, path in scripts.items()}
    kinds |= {f"{name}-restart": ["-scans", str(path), "-restart", "3B"] for name, path in scripts.items()}
    for sampling in SAMPLINGS:
        stem = sampling.replace(",", "-")
        for kind, flags in kinds.items():
            if kind == "arithmetic" and sampling != "2x2":
                continue
            out = HERE / f"{stem}_{kind}.jpg"
            # cjpeg refuses a few combinations of sampling and scans.
            run = subprocess.run(["cjpeg", "-quality", "90", "-sample", sampling, *flags, str(ppm)], capture_output=True)
            if run.returncode == 0:
                out.write_bytes(run.stdout)
        Image.open(HERE / f"{stem}_baseline.jpg").convert("RGB").save(HERE / f"{stem}.png", optimize=True)
    for name, image, more in [("gray", picture().convert("L"), {}), ("cmyk", picture().convert("CMYK"), {}),
                              ("rgb", picture(), {"keep_rgb": True})]:
        path = HERE / f"{name}_baseline.jpg"
        image.save(path, quality=90, **more)
        Image.open(path).convert("RGB").save(HERE / f"{name}.png", optimize=True)
    for path in [ppm, *scripts.values()]:
        path.unlink()
    # The answer is one for all files of a sampling.
    for path in sorted(HERE.glob("*.jpg")):
        if "arithmetic" not in path.name:
            want = Image.open(HERE / (path.name.split("_")[0] + ".png"))
            assert Image.open(path).convert("RGB").tobytes() == want.tobytes(), path


if __name__ == "__main__":
    main()
