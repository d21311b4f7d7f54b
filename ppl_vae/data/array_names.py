"""What the arrays of a person's file are called: x, y, x_mask; train, train_y, ... of each split; or as others do.

Keras has x_train, MedMNIST train_images and train_labels, scikit-learn data and target.
"""

from ppl_vae.errors import InputError
from ppl_vae.utils.array_files import Array

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
X_OF_SPLIT = ("{0}", "x_{0}", "{0}_x", "{0}_images", "{0}_data")
Y_OF_SPLIT = ("{0}_y", "y_{0}", "{0}_labels", "{0}_targets")
WHOLE = (
    ("X", "y"),
    ("X", "Y"),
    ("images", "labels"),
    ("images", "y"),
    ("data", "target"),
    ("data", "labels"),
)  # instead of x, y


def labels_of(key: str) -> str:
    """Return the name of the labels of an array.

    >>> labels_of("x"), labels_of("train")
    ('y', 'train_y')
    """
    return "y" if key == "x" else f"{key}_y"


def usual_names(arrays: dict[str, Array], *, plain: bool = False) -> dict[str, Array]:
    """Return arrays by their usual names: those with others that are known, where nothing has the usual one.

    `plain` knows no others than train, validation (valid, val) and test, with _y and _mask.
    """
    names = _of_splits(arrays, plain=plain)
    if not plain and "x" not in arrays and "train" not in names.values() and not _is_sparse(arrays):
        names |= next(({x: "x", y: "y"} for x, y in WHOLE if x in arrays and y in arrays), {})
    usual = {name: names.get(name, name) for name in arrays}
    return {usual[name]: array for name, array in arrays.items()} if len(set(usual.values())) == len(usual) else arrays


def _of_splits(arrays: dict[str, Array], *, plain: bool) -> dict[str, str]:
    """Return the usual names of arrays that are of one split, by their own."""
    names = {}
    own = {name if plain else name.lower(): name for name in reversed(arrays)}
    for split, words in SPLITS.items():
        several = ((split, X_OF_SPLIT), (labels_of(split), Y_OF_SPLIT), (f"{split}_mask", ("{0}_mask",)))
        for usual, forms in several:
            known = [form.format(word) for word in words for form in (forms[:1] if plain else forms)]
            found = next((own[name] for name in known if name in own), None)
            if found is not None and usual not in arrays:
                names[found] = usual
    return names


def _is_sparse(arrays: dict[str, Array]) -> bool:
    return {"data", "indices", "indptr"} <= set(arrays)


def split_keys(arrays: dict[str, Array]) -> tuple[str, ...]:
    """Return which splits the arrays are of, if training and another are among them; else none."""
    found = tuple(split for split in SPLITS if split in arrays)
    return found if "train" in found and len(found) > 1 else ()


def key_of_all(path: object, arrays: dict[str, Array]) -> str:
    """Return the name of the one array that holds all data.

    Raises:
        InputError: there is none, or there are several.
    """
    key = "x" if "x" in arrays else next((k for k, a in arrays.items() if a.ndim > 1), None)
    if key is None or (len(arrays) > 1 and key != "x"):
        raise InputError(
            f"Expected {path} to hold x (and y), or train, validation and test; got {', '.join(arrays) or 'nothing'}. "
            f"Rename its arrays."
        )
    return key
