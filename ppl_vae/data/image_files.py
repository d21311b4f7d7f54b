"""Folders of images: their pixels, and what the names of subfolders say of splits and classes.

    train/cat/1.png  train/dog/2.png  test/cat/3.png     splits, and labels in the order of their names

This is the layout of torchvision's ImageFolder.

Pixels that are transparent are shown on white, a turned photograph is turned back, palettes and CMYK become colours.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data.array_names import SPLITS, labels_of
from ppl_vae.errors import InputError, reason
from ppl_vae.utils.array_files import Array
from ppl_vae.utils.files import kind_of, regular_file
from ppl_vae.utils.formats import is_known, lines_that_convert

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
GREY = ("1", "L", "LA", "La")
COLOURS = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
AS_BEFORE = ("1", "L", "LA", "P", "RGB", "RGBA")  # those that were read before the others
FRAMES = ("GIF", "TIFF", "WEBP", "PNG")  # formats whose files may be films
BACKGROUND, OPAQUE = (255, 255, 255), 255


def read_images(path: Path) -> Array:
    """Return all images of a folder and its subfolders in order of their names, or one image, [N, C, H, W] of bytes."""
    single = kind_of(path, "an image, or a folder of images,") != "folder"
    return _stacked(path, [path] if single else _files(path), Counter())


def read_image_folder(path: Path, *, as_stored: bool = False) -> tuple[dict[str, Array], str]:
    """Return images [N, C, H, W] as arrays by name, as a file has them (x, y; train, train_y, ...), and what was done.

    Labels are the names of the folders that all images of a class lie in; `as_stored` takes all images together,
    without labels, and leaves them as the files have them.
    """
    files, noted = _files(path, hidden=as_stored), Counter[str]()
    parts = {"x": files} if as_stored else _by_split(path, files)
    arrays = {name: _stacked(path, some, noted, as_stored=as_stored) for name, some in parts.items()}
    if len({array.shape[1] for array in arrays.values()}) > 1:
        arrays = {name: _coloured(array) for name, array in arrays.items()}
    classes = {} if as_stored else {name: _classes(path, some, name != "x") for name, some in parts.items()}
    if loose := [name for name, found in classes.items() if found is None and _in_folders(path, parts[name], name)]:
        noted[f"no labels in {' and '.join(loose)}, as some images lie in no folder of a class"] = 1
    named = {name: np.asarray(found) for name, found in classes.items() if found is not None}
    if named and 1 < len(np.unique(np.concatenate(list(named.values())))) < sum(map(len, named.values())):
        arrays |= {labels_of(name): found for name, found in named.items()}
    total = len(files)
    return arrays, "; ".join(words.format(count=n, of=total) for words, n in noted.items())


def _files(path: Path, *, hidden: bool = False) -> list[Path]:
    """Return the images of a folder and its subfolders, in the order of their names; of hidden ones (.git) if told."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("._"))
    if not hidden:
        files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    if files:
        return files
    others = [f for f in sorted(path.rglob("*"))[:1000] if f.is_file()]
    known = next((f for f in others if is_known(f)), None)
    fix = f" Two lines convert a file: {lines_that_convert(known)}." if known else " Give another folder."
    data = next((f for f in others if f.suffix.lower() in (".npy", ".npz", ".csv", ".parquet")), None)
    fix = f" Give one of its files, such as {data}." if data else fix
    raise InputError(f"Expected images ({', '.join(IMAGE_SUFFIXES[:3])}, ...) in {path}; got none.{fix}")


def _by_split(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each split, by folders that are named so, if training and another are; else all as x."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        inside = file.relative_to(path).parts
        split = next((name for name, also in SPLITS.items() if len(inside) > 1 and inside[0].lower() in also), "")
        parts.setdefault(split, []).append(file)
    if "train" not in parts or len(parts) == 1:
        return {"x": list(files)}
    if outside := parts.get(""):
        raise InputError(
            f"Expected all images of {path} in its folders for training, validation and test; got {len(outside)} "
            f"outside, first {outside[0].relative_to(path)}. Move them, or say kind='as_stored' to take all together."
        )
    return {name: parts[name] for name in SPLITS if name in parts}


def _classes(path: Path, files: Sequence[Path], in_split: bool) -> list[str] | None:
    """Return the class of each image, the folder in which it lies, the outermost; None if some lie in no folder."""
    inside = [file.relative_to(path).parts[1 if in_split else 0 : -1] for file in files]
    return [folders[0] for folders in inside] if all(inside) else None


def _in_folders(path: Path, files: Sequence[Path], name: str) -> bool:
    """Return whether images of a split lie in several folders, and others beside these."""
    inside = {file.relative_to(path).parts[int(name != "x") : -1][:1] for file in files}
    return len(inside) > 1


def _stacked(path: Path, files: Sequence[Path], noted: Counter[str], *, as_stored: bool = False) -> Array:
    """Return images of one size as an array [N, C, H, W]; grey ones beside coloured ones become coloured."""
    images: list[Array] = []
    of_one = 0 if as_stored else 1  # axes from here on are the same in all
    for file in files:
        regular_file(file, "an image")
        pixels = _pixels(file, noted, as_stored)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images and pixels.shape[of_one:] != images[0].shape[of_one:]:
            raise InputError(
                f"Expected images of one size and kind in {path}; got {files[0].name} with (channels, height, width) "
                f"= {images[0].shape} and {file.name} with {pixels.shape}. Resize them to one: "
                f"PIL.Image.open(FILE).resize({images[0].shape[:0:-1]}).save(FILE)."
            )
        images.append(pixels)
    grey = sum(len(image) == 1 for image in images)
    if 0 < grey < len(images):
        noted["{count} of {of} are grey, and become colours as the others"] += grey
        images = [np.broadcast_to(image, (3, *image.shape[1:])) for image in images]
    return np.stack(images)


def _coloured(images: Array) -> Array:
    return np.broadcast_to(images, (len(images), 3, *images.shape[2:])).copy()


def _pixels(file: Path, noted: Counter[str], as_stored: bool) -> Array:
    """Return one image, [H, W] or [H, W, 3] of bytes."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # of more pixels than anybody looks at
            with Image.open(file) as image:
                frames = 1 if as_stored or image.format not in FRAMES else int(getattr(image, "n_frames", 1))
                mode = image.mode
                if as_stored and mode in AS_BEFORE:
                    return np.asarray(image.convert("RGB" if mode not in GREY else "L"))
                if not as_stored and frames == 1 and mode in (*GREY, *COLOURS):
                    return _shown(image, noted)
    except Exception as problem:  # whatever the readers of twenty formats raise
        raise InputError(
            f"Expected an image in {file}; got one that cannot be read ({reason(problem)}). Remove or replace it."
        ) from None
    if frames > 1:
        raise InputError(
            f"Expected one image in each file; got {frames} in {file}. Save them as an array: frames = "
            f"ImageSequence.Iterator(Image.open({str(file)!r})); np.save('x.npy', np.stack([np.asarray("
            f"frame.convert('RGB')) for frame in frames])), with numpy and PIL's Image and ImageSequence."
        )
    raise InputError(
        f"Expected 8-bit grey or colour images; got mode {mode} in {file}. Convert it, or save the numbers as .npy: "
        f"np.save('x.npy', np.stack([np.asarray(PIL.Image.open(f)) for f in FILES]) / 65535), for 16 bits."
    )


def _shown(image: Any, noted: Counter[str]) -> Array:
    """Return an image as it is looked at: turned back, on white where it is transparent, in grey or in colours."""
    from PIL import Image, ImageOps

    mode = "L" if image.mode in GREY else "RGB"
    if image.mode in ("CMYK", "YCbCr", "HSV"):
        noted["{count} of {of} in CMYK and the like, converted to RGB"] += 1
    upright = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112, 1) != 1:
        noted["{count} of {of} turned as their EXIF says"] += 1
    if "A" in upright.getbands() or "a" in upright.getbands() or "transparency" in upright.info:
        clear = upright.convert("RGBA")
        if np.asarray(clear)[..., 3].min() < OPAQUE:
            noted["{count} of {of} with transparent pixels, shown on white"] += 1
            upright = Image.alpha_composite(Image.new("RGBA", clear.size, (*BACKGROUND, OPAQUE)), clear)
        else:
            upright = clear
    return np.asarray(upright.convert(mode))
