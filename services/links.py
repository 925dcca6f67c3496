"""One-time links: invitations into an organization, and new passwords for people who lost theirs.

The secret of a link is 32 random bytes, of which the SHA-256 is stored. It is used up by compare-and-set.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from datetime import timedelta

from flask import current_app
from sqlalchemy import or_, select, update

from extensions import db
from models import LinkKind, Membership, OneTimeLink, Organization, User
from policy.permissions import Permission, Role
from services import access, accounts, audit, clock, mail, sign_ins, single_sign_on
from services.compare_and_set import won
from services.errors import Conflict, Forbidden, Invalid, NotFound
from services.sign_ins import Arrival

log = logging.getLogger(__name__)

INVITATION = timedelta(hours=48)
RESET = timedelta(hours=1)
MOST_INVITATIONS = 100
ENDED = "This link was used, was revoked, or is too old. Ask for a new one."
_NOT_YOURS = "Only owners let people in. Nothing was changed."
#: Of people who share an e-mail address, so many get a mail.
_MOST_MAILS = 5


def invite(by: Membership, role: Role, email: str) -> str:
    """Make an invitation into ``by``'s organization, and commit. Returns its secret, which is nowhere else.

    Raises :class:`Invalid` for field "email", :class:`Forbidden`, :class:`Conflict`.
    """
    access.require(by, Permission.MANAGE_MEMBERS, _NOT_YOURS)
    if email and (not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", email) or len(email) > 254):
        raise Invalid("email", "That is not an e-mail address. Leave it empty to pass the link on yourself.")
    if len(invitations(by.organization)) >= MOST_INVITATIONS:
        raise Conflict(f"{MOST_INVITATIONS} invitations wait. Revoke one first.")
    secret = _make(LinkKind.INVITATION, INVITATION, by.user, organization_id=by.organization_id, role=role, email=email)
    audit.record("link.invite", by.user, organization=by.organization, role=role.value, email=email)
    db.session.commit()
    return secret


def invitations(organization: Organization) -> list[OneTimeLink]:
    """The invitations that wait, newest first."""
    query = select(OneTimeLink).where(OneTimeLink.organization_id == organization.id, *accounts.open_links())
    return list(db.session.scalars(query.order_by(OneTimeLink.id.desc())))


def revoke(by: Membership, number: int) -> None:
    """End an invitation that waits, and commit. Raises :class:`NotFound`, :class:`Conflict`."""
    access.require(by, Permission.MANAGE_MEMBERS, _NOT_YOURS)
    here = (OneTimeLink.id == number, OneTimeLink.organization_id == by.organization_id)
    if db.session.scalar(select(OneTimeLink.id).where(*here)) is None:
        raise NotFound("No such invitation.")
    if not won(update(OneTimeLink).where(*here, *accounts.open_links()).values(revoked_at=clock.now())):
        raise Conflict("That invitation was used or had ended before. Nothing was changed.")
    audit.record("link.revoke", by.user, organization=by.organization, link=number)
    db.session.commit()


def helped(by: Membership, name: str) -> User:
    """The member whom ``by`` may give a way in: somebody who belongs to no organization that ``by`` does not own.

    Otherwise the owner of one organization could become a person of another. Raises :class:`NotFound`,
    :class:`Forbidden`.
    """
    access.require(by, Permission.MANAGE_MEMBERS, _NOT_YOURS)
    here = Membership.organization_id == by.organization_id
    user = db.session.scalar(
        select(User).join(Membership, Membership.user_id == User.id).where(User.name == name, here)
    )
    if user is None:
        raise NotFound("No such member.")
    if user.id == by.user_id:
        raise Forbidden("For yourself there are the pages of your own settings. Nothing was changed.")
    if not _owns_all_of(by.user_id, user.id):
        sentence = f"{name} belongs to an organization that is not yours, so only an operator can do that (flask user)."
        raise Forbidden(f"{sentence} Nothing was changed.")
    return user


def reset_for(by: Membership, name: str) -> str:
    """Make a link to a new password for a member, and commit. Returns its secret. Raises as :func:`helped`."""
    user = helped(by, name)
    secret = _make_reset(user, by.user)
    audit.record("link.reset", by.user, organization=by.organization, user=user.name)
    db.session.commit()
    return secret


def operator_reset(user: User) -> str:
    """Make a link to a new password for an operator's command, and commit. Returns its secret."""
    secret = _make_reset(user, None)
    audit.record("link.reset", None, user=user.name)
    db.session.commit()
    return secret


def mail_reset(typed: str, base: str) -> None:
    """Mail a link to a new password to whoever has this user name or e-mail address; to nobody when none has.

    ``base`` is the address of the page that takes links. It takes as long as the mail server does.
    """
    if "\0" in typed:  # nobody is called that, and PostgreSQL compares no such text
        return
    ids = db.session.scalars(select(User.id).where(or_(User.name == typed, User.email == typed)).limit(_MOST_MAILS))
    for number in list(ids):
        user = db.session.get_one(User, number)
        name, email, secret = user.name, user.email, _make_reset(user, None, mailed=True)
        audit.record("link.reset", None, user=name, mailed=True)
        db.session.commit()
        text = f"Somebody asked for a new password for {name} in Lockstep. If it was you, open this within an hour:\n\n"
        text += f"{base}{secret}\n\nIf not, do nothing: your password is as it was.\n"
        try:
            mail.send(email, "A new password for Lockstep", text)
        except mail.MailFailed:
            log.error("the mail with a link to a new password was not sent")


def mail_invitation(by: Membership, email: str, address: str) -> None:
    """Mail an invitation's address. Raises :class:`mail.MailFailed`."""
    text = (
        f"{by.user.name} invites you to {by.organization.name} in Lockstep. Open this within two days:\n\n{address}\n"
    )
    mail.send(email, f"Invitation to {by.organization.name} in Lockstep", text)


def look_up(secret: str) -> OneTimeLink:
    """The link, while it is good. Raises :class:`NotFound`."""
    link = db.session.scalar(select(OneTimeLink).where(OneTimeLink.digest == _digest(secret), *accounts.open_links()))
    if link is None or not _still_meant(link):
        raise NotFound(ENDED)
    return link


def join(link: OneTimeLink, user: User) -> None:
    """Take an invitation with an account that is there, and commit. Raises :class:`Conflict`, :class:`NotFound`."""
    if db.session.get(Membership, (link.organization_id, user.id)) is not None:
        raise Conflict("You belong to this organization already. The invitation is as it was.")
    _take(link, user)
    db.session.commit()


def sign_up(link: OneTimeLink, name: str, email: str, password: str) -> Arrival:
    """Take an invitation with a new account, and commit. Raises :class:`Invalid`, :class:`NotFound`."""
    organization = link.organization
    _demand_passwords()
    user = accounts.add_user(name, email, password, organization.name if organization else "")
    _take(link, user)
    arrival = Arrival(user, user.session_epoch)
    db.session.commit()
    return arrival


def sign_up_with(link: OneTimeLink, name: str, email: str, identity: single_sign_on.Identity) -> Arrival:
    """As :func:`sign_up`, for somebody who signs in by single sign-on and has no password here."""
    user = accounts.add_user(name, email, None)
    _take(link, user)
    single_sign_on.bind(user, identity)
    arrival = Arrival(user, user.session_epoch)
    db.session.commit()
    return arrival


def new_password(link: OneTimeLink, password: str) -> User:
    """Set the password that a link is for, end every other such link, sign the person out everywhere, commit.

    A second factor stays. Raises :class:`Invalid` for field "password", :class:`NotFound`.
    """
    user, number = link.user, link.id
    if user is None:
        raise NotFound(ENDED)
    user_id = user.id
    hashed = accounts.hash_new(user, password)
    _use(db.session.get_one(OneTimeLink, number))
    accounts.end_resets(OneTimeLink.user_id == user_id)
    user = db.session.get_one(User, user_id)
    db.session.execute(update(User).where(User.id == user_id).values(password_hash=hashed))
    sign_ins.expel(user)
    audit.record("user.password", user, user=user.name, how="link")
    db.session.commit()
    return user


def _make(kind: LinkKind, lifetime: timedelta, by: User | None, **columns: object) -> str:
    secret, now = secrets.token_urlsafe(32), clock.now()
    made = {"created_by_id": by.id if by else None, "created_at": now, "expires_at": now + lifetime}
    db.session.add(OneTimeLink(kind=kind, digest=_digest(secret), **made, **columns))
    return secret


def _make_reset(user: User, by: User | None, *, mailed: bool = False) -> str:
    """A new one ends those before; a mailed one, for which any stranger can ask, ends only those that were mailed."""
    _demand_passwords()
    accounts.end_resets(OneTimeLink.user_id == user.id, *([OneTimeLink.email != ""] if mailed else []))
    return _make(LinkKind.PASSWORD_RESET, RESET, by, user_id=user.id, email=user.email if mailed else "")


def _demand_passwords() -> None:
    if not current_app.config["LOCKSTEP"].password_sign_in:
        raise Conflict("Passwords are switched off here. Nothing was changed.")


def _take(link: OneTimeLink, user: User) -> None:
    if link.kind is not LinkKind.INVITATION or link.organization is None or link.role is None:
        db.session.rollback()
        raise NotFound(ENDED)
    _use(link)
    db.session.add(Membership(organization_id=link.organization.id, user_id=user.id, role=link.role))
    by = link.created_by.name if link.created_by else "Lockstep"
    audit.record("link.join", user, organization=link.organization, user=user.name, role=link.role.value, invited_by=by)


def _use(link: OneTimeLink) -> None:
    """Use the link up. The caller commits. Raises :class:`NotFound` when somebody was faster or its maker may not."""
    if not _still_meant(link) or not won(
        update(OneTimeLink).where(OneTimeLink.id == link.id, *accounts.open_links()).values(used_at=clock.now())
    ):
        db.session.rollback()
        raise NotFound(ENDED)


def _still_meant(link: OneTimeLink) -> bool:
    """Whether who made the link may still do what it does."""
    if link.kind is LinkKind.INVITATION:
        maker = db.session.get(Membership, (link.organization_id, link.created_by_id))
        return maker is not None and maker.role is Role.OWNER
    if not current_app.config["LOCKSTEP"].password_sign_in:
        return False
    by_owner = link.created_by_id is not None and link.user_id is not None
    return not by_owner or _owns_all_of(link.created_by_id or 0, link.user_id or 0)


def _owns_all_of(owner_id: int, user_id: int) -> bool:
    """Whether the one owns every organization that the other belongs to, and there is one."""
    theirs = set(db.session.scalars(select(Membership.organization_id).where(Membership.user_id == user_id)))
    owned = select(Membership.organization_id).where(Membership.user_id == owner_id, Membership.role == Role.OWNER)
    return bool(theirs) and theirs <= set(db.session.scalars(owned))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
