"""Numbers in words, as half of paper 3's sentences write them."""

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(n: int) -> str:
    """Return a number below a thousand in words.

    Examples:
        >>> in_words(342)
        'three hundred and forty-two'
    """
    if n >= 100:
        rest = f" and {in_words(n % 100)}" if n % 100 else ""
        return f"{_SMALL[n // 100]} hundred{rest}"
    if n < 20:
        return _SMALL[n]
    return _TENS[n // 10 - 2] + (f"-{_SMALL[n % 10]}" if n % 10 else "")
