"""What the forms of all pages share."""

from __future__ import annotations

from flask_wtf import FlaskForm

from services.errors import Invalid


def stripped(text: str | None) -> str | None:
    """A filter of WTForms: without blanks at the ends."""
    return text.strip() if text else text


def problems(form: FlaskForm) -> dict[str, str]:
    """The first message of each field that the form itself refused."""
    return {name: str(messages[0]) for name, messages in form.errors.items() if messages}


def refused(error: Invalid) -> dict[str, str]:
    """The message of a service, at the field it is about."""
    return {error.field: str(error)}
