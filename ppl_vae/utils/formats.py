"""Files of kinds that are not read here: the two lines of Python that write them as .npy, .npz or .csv.

What such a file means (which of its arrays is x, which column a label) is for its owner to say: so it is a line to be
edited, and no reader.
"""

from pathlib import Path
from typing import NamedTuple


class Lines(NamedTuple):
    """Two lines of Python, in which {path}, {stem} (without a suffix), {npy}, ... are names of files, and a hint."""

    read: str
    write: str
    hint: str = ""


NAMED = "NAME is one of list(found)"
STACKED = "np.stack those of all files, for found[None]"


def _arrays(read: str, take: str = "found[NAME]") -> Lines:
    return Lines(f"import numpy as np, {read}", f"np.savez({{npz}}, x={take})", NAMED)


def _array(read: str, take: str = "found", hint: str = "") -> Lines:
    return Lines(f"import numpy as np, {read}", f"np.save({{npy}}, {take})", hint)


def _table(read: str, hint: str = "") -> Lines:
    more = ", " if "; " in read else "; "  # another import, or none
    return Lines(f"import pandas{more}{read}", "found.to_csv({csv}, index=False)", hint)


def _unpacked(module: str) -> Lines:
    copy = f"shutil.copyfileobj({module}.open({{path}}), open({{stem}}, 'wb'))"
    return Lines(f"import {module}, shutil", copy, "then give the file without its last suffix")


READERS: dict[tuple[str, ...], Lines] = {
    (".mat",): _arrays("scipy.io; found = scipy.io.loadmat({path})"),
    (".h5", ".hdf5", ".he5", ".hdf", ".loom"): _arrays("h5py; found = h5py.File({path})", "found[NAME][:]"),
    (".nc", ".nc4", ".cdf"): _arrays("xarray; found = xarray.open_dataset({path})", "found[NAME].values"),
    (".zarr",): _arrays("zarr; found = zarr.open({path})", "found[NAME][:]"),
    (".safetensors",): _arrays("safetensors.numpy as s; found = s.load_file({path})"),
    (".pkl", ".pickle"): _array(
        "pickle; found = pickle.load(open({path}, 'rb'))", "np.asarray(found)", "it runs code: of people you trust"
    ),
    (".joblib",): _array(
        "joblib; found = joblib.load({path})", "np.asarray(found)", "it runs code: of people you trust"
    ),
    (".pt", ".pth", ".ckpt"): _array(
        "torch; found = torch.load({path}, weights_only=True)", "np.asarray(found)", "of a dict, found[NAME]"
    ),
    (".xlsx", ".xls", ".xlsm", ".ods"): _table("found = pandas.read_excel({path})"),
    (".jsonl", ".ndjson"): _table("found = pandas.read_json({path}, lines=True)"),
    (".json",): _table("found = pandas.read_json({path})"),
    (".sav", ".zsav", ".por"): _table("found = pandas.read_spss({path})"),
    (".dta",): _table("found = pandas.read_stata({path})"),
    (".sas7bdat", ".xpt"): _table("found = pandas.read_sas({path})"),
    (".orc",): _table("found = pandas.read_orc({path})"),
    (".xml",): _table("found = pandas.read_xml({path})"),
    (".html", ".htm"): _table("found = pandas.read_html({path})[0]"),
    (".db", ".sqlite", ".sqlite3"): _table(
        "sqlite3; found = pandas.read_sql('select * from NAME', sqlite3.connect({path}))", "NAME is a table of it"
    ),
    (".arff",): _table("scipy.io.arff as a; found = pandas.DataFrame(a.loadarff({path})[0])"),
    (".rds", ".rda", ".rdata"): _table("pyreadr; found = next(iter(pyreadr.read_r({path}).values()))"),
    (".txt", ".dat", ".asc"): Lines(
        "import numpy as np; found = np.loadtxt({path})", "np.save({npy}, found)", "delimiter=',' where it has commas"
    ),
    (".data",): _table("found = pandas.read_csv({path}, header=None, na_values='?')"),
    (".svm", ".libsvm", ".svmlight"): Lines(
        "import numpy as np, sklearn.datasets as d; x, y = d.load_svmlight_file({path})",
        "np.savez({npz}, x=x.toarray(), y=y)",
    ),
    (".nii", ".nii.gz", ".mgz"): _array(
        "nibabel; found = nibabel.load({path}).get_fdata(dtype=np.float32)", "found[None]", STACKED
    ),
    (".dcm", ".dicom"): _array("pydicom; found = pydicom.dcmread({path}).pixel_array", "found[None]", STACKED),
    (".fits", ".fit"): _array("astropy.io.fits as f; found = f.getdata({path})"),
    ("-ubyte", ".idx"): Lines(
        "import numpy as np; found = np.fromfile({path}, np.uint8)",
        "np.save({npy}, found[4 + 4 * found[3] :].reshape(found[4 : 4 + 4 * found[3]].view('>i4')))",
    ),
    (".zip", ".tar", ".tar.gz", ".tgz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz"): Lines(
        "import shutil", "shutil.unpack_archive({path}, {stem})", "then give what is in that folder"
    ),
    (".gz",): _unpacked("gzip"),
    (".bz2",): _unpacked("bz2"),
    (".xz",): _unpacked("lzma"),
    (".wav",): _array(
        "scipy.io.wavfile as w; found = w.read({path})[1]",
        "found[: len(found) // 1000 * 1000].reshape(-1, 1000, 1) / 2**15", "series of 1000 steps each",
    ),
    (".mp3", ".flac", ".ogg", ".aiff", ".m4a"): _array(
        "soundfile; found, rate = soundfile.read({path}, always_2d=True)",
        "found[: len(found) // 1000 * 1000].reshape(-1, 1000, found.shape[1])", "series of 1000 steps each",
    ),
    (".mid", ".midi"): _array(
        "pretty_midi as m; found = m.PrettyMIDI({path}).get_piano_roll(fs=4).T > 0",
        "found[None].astype(float)", "np.stack those of all files, padded by np.nan",
    ),
    (".edf", ".bdf"): _array("mne; found = mne.io.read_raw_edf({path}).get_data().T", "found[None]"),
    (".mp4", ".avi", ".mov", ".mkv", ".webm"): _array("imageio.v3; found = imageio.v3.imread({path})"),
    (".heic", ".heif", ".jxl", ".jp2"): Lines(
        "import PIL.Image, pillow_heif; pillow_heif.register_heif_opener()", "PIL.Image.open({path}).save({png})",
        "then give the folder of them",
    ),
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"): Lines(
        "import os, shutil; os.makedirs('images', exist_ok=True)", "shutil.copy({path}, 'images')",
        "and others of its size; then give that folder",
    ),
}  # fmt: skip
ANY = Lines("import numpy as np; found = ...", "np.save({npy}, found)", "found: an array [N, ...], by any reader")
OTHERS = ("npy", "npz", "csv", "png")


def lines_that_convert(path: Path) -> str:
    """Return the lines of Python that write a file as one that is read, one after the other, and a hint.

    >>> lines_that_convert(Path("a.dta"))
    "import pandas; found = pandas.read_stata('a.dta'); found.to_csv('a.csv', index=False)"
    """
    suffix, lines = _known(path) or (path.suffix, ANY)
    stem = path.name[: len(path.name) - len(suffix)] or "data"
    names = {"path": path, "stem": path.with_name(stem)}
    names |= {other: path.with_name(f"{stem}.{other}") for other in OTHERS}
    written = "; ".join(lines[:2]).format(**{name: repr(str(file)) for name, file in names.items()})
    return written + (f" ({lines.hint})" if lines.hint else "")


def _known(path: Path) -> tuple[str, Lines] | None:
    """Return how a file's name ends, and the lines for such files."""
    name = path.name.lower()
    endings = ((suffix, lines) for suffixes, lines in READERS.items() for suffix in suffixes)
    return max(((s, lines) for s, lines in endings if name.endswith(s)), key=lambda found: len(found[0]), default=None)


def is_known(path: Path) -> bool:
    """Return whether a path ends as files of data do for which there is a well-known reader."""
    return _known(path) is not None
