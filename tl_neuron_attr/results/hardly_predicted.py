"""What to say of effects on a target that the model would not say itself."""

IMPROBABLE = -6.9
"""Log-probability of a token, in nats, below which the model is said to hardly predict it: a thousandth."""


def hardly_predicted(log_prob: float, *, tokens: int = 1) -> str:
    """Return a sentence about a target of this log-probability in nats; empty where the model does predict it.

    The log-probability of an answer is a sum over its ``tokens`` and so falls with their number, however well each is
    predicted: what counts is their mean. It must not be a difference from a contrast's, which says nothing of how
    likely the target is.

    Examples:
        >>> hardly_predicted(-9.2)
        'the model hardly predicts this target: effects on it are not why the model says what it says'
        >>> hardly_predicted(-0.1), hardly_predicted(-9.2, tokens=5)
        ('', '')
    """
    if log_prob >= IMPROBABLE * tokens:
        return ""
    return "the model hardly predicts this target: effects on it are not why the model says what it says"
