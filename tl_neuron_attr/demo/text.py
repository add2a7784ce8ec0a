"""Text and words."""


def words(text: str) -> list[str]:
    """Return the words of a text, split at spaces."""
    return text.split()
