"""The check of an index, by the name an error gives it."""


def within(name: str, value: int, size: int) -> None:
    """Refuse an index outside ``0 .. size - 1``; negative ones are not counted from the end.

    Raises:
        IndexError: With the valid range.
    """
    if not 0 <= value < size:
        raise IndexError(f"{name} must lie between 0 and {size - 1}, got {value}")
