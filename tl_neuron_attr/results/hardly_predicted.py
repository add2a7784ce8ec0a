"""What to say of effects on a target that the model would not say itself."""

IMPROBABLE = -6.9
"""Log-probability, in nats, below which the model is said to hardly predict a target: a thousandth."""


def hardly_predicted(log_prob: float) -> str:
    """Return a sentence about a target of this log-probability in nats; empty where the model does predict it.

    Examples:
        >>> hardly_predicted(-9.2)
        'the model hardly predicts this target: effects on it are not why the model says what it says'
        >>> hardly_predicted(-0.1)
        ''
    """
    if log_prob >= IMPROBABLE:
        return ""
    return "the model hardly predicts this target: effects on it are not why the model says what it says"
