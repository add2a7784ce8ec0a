"""A number and what it counts, as captions say it."""


def plural(count: int, noun: str, *, many: str = "") -> str:
    """Return a count with its noun in the right number; ``many`` where more of them are not ``noun`` with an s.

    Examples:
        >>> plural(1, "prompt"), plural(1000, "prompt"), plural(2, "query", many="queries")
        ('1 prompt', '1,000 prompts', '2 queries')
    """
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
