import jaxtyping
import pytest


@pytest.fixture
def as_installed(monkeypatch):
    """Without the annotations being checked at run time, as the test session has them: what a user's own errors are."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
