"""Text and words."""


def words(text: str) -> list[str]:
    """The words of a text, which spaces part."""
    return text.split()
