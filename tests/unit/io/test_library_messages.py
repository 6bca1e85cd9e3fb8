from __future__ import annotations

import logging
import warnings

import pytest

from ctai_sam2.io.library_messages import quiet


def speak() -> None:
    warnings.warn("Doe^Jane", stacklevel=1)
    logging.getLogger("someone").warning("Doe^Jane")
    logging.getLogger("someone.child").error("Doe^Jane")


def test_nothing_is_shown_inside_and_everything_again_after(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with quiet("someone") as caught, quiet("someone"):
        speak()
    with quiet("someone") as caught:
        speak()
    assert len(caught) == 1
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="Doe"):
        speak()
    assert len(caplog.records) == 2


def test_errors_pass_and_leave_things_as_they_were() -> None:
    logger = logging.getLogger("someone")
    before = (list(logger.filters), list(logger.handlers), logger.propagate)
    with pytest.raises(KeyError), quiet("someone"):
        raise KeyError
    assert (logger.filters, logger.handlers, logger.propagate) == before
