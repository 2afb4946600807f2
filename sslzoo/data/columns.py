"""Which columns of a data set hold the images and the labels."""

from sslzoo.errors import InputError, unknown


def find_image_column(features, name: str | None) -> str:
    """The column with that name, else the only `Image` column, else the one called "image" among several. Raises `InputError`."""
    from datasets import Image, Value

    images = [column for column, feature in features.items() if isinstance(feature, Image)]
    if name is not None:
        if name not in features:
            raise unknown("image column", name, images or features)
        feature = features[name]
        plain = feature in (Value("binary"), Value("large_binary")) or (isinstance(feature, dict) and "bytes" in feature)
        if name not in images and not plain:
            raise InputError(f"column '{name}' holds no encoded images but {_kind(feature)}; choose from: {', '.join(images) or '(none)'}")
        return name
    if len(images) == 1 or "image" in images:
        return "image" if "image" in images else images[0]
    if images:
        raise InputError(f"several columns hold images, choose one as image_column: {', '.join(images)}")
    raise InputError(f"no column holds images; the columns are: {', '.join(features)}")


def find_label_column(features, name: str | None) -> str | None:
    """The column with that name, else the `ClassLabel` column called "label", else the only one, else None. Raises `InputError`."""
    from datasets import ClassLabel, Value

    classes = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if name is not None:
        if name not in features:
            raise unknown("label column", name, classes or features)
        feature = features[name]
        if name not in classes and not (isinstance(feature, Value) and feature.dtype.lstrip("u").startswith("int")):
            raise InputError(f"column '{name}' holds no labels (classes or whole numbers) but {_kind(feature)}")
        return name
    if "label" in classes:
        return "label"
    return classes[0] if len(classes) == 1 else None


def _kind(feature) -> str:
    return getattr(feature, "dtype", None) or type(feature).__name__
