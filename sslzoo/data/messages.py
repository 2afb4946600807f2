"""Names and counts in messages."""

_LENGTH = 250  # characters of a name in a message


def display_name(name: str) -> str:
    """A name for a message: on one line, without control characters, and not too long."""
    clean = "".join(letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in name)
    return clean if len(clean) <= _LENGTH else f"{clean[: _LENGTH // 2]} ... {clean[-_LENGTH // 2 :]}"


def pluralize(count: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def first_few(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(display_name(name) for name in names[:3]) + (" ..." if len(names) > 3 else "")
