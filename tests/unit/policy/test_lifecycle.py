"""The transition table: what is possible, and that no way leads past a gate that is not satisfied."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.lifecycle import (
    FINAL,
    HOLDING,
    RUNNING,
    Event,
    GateFacts,
    RunStatus,
    TransitionRefused,
    advance,
    can,
    can_authenticate,
    can_cancel,
    can_confirm,
    can_discard,
)
from policy.mfa import MfaLevel, PhaseKind, stricter

S, E = RunStatus, Event
NEVER, APPLIES, BOTH = MfaLevel.NEVER, MfaLevel.APPLIES_ONLY, MfaLevel.PLANS_AND_APPLIES
PLAN, APPLY = PhaseKind.PLAN, PhaseKind.APPLY


def walk(level: MfaLevel, *events: Event | PhaseKind) -> RunStatus:
    """The status after events from the start; a phase kind stands for AWS accepting a code for it."""
    status, accepted = S.PENDING, frozenset[PhaseKind]()
    for event in events:
        if isinstance(event, PhaseKind):
            accepted |= {event}
            event = E.AUTHENTICATE
        status = advance(status, event, GateFacts(level, accepted))
    return status


def test_never_asks_for_confirmation_only() -> None:
    assert walk(NEVER, E.START) is S.PLAN_QUEUED
    assert walk(NEVER, E.START, E.TAKE, E.FINISH_PLAN) is S.AWAITING_CONFIRMATION
    assert walk(NEVER, E.START, E.TAKE, E.FINISH_PLAN, E.CONFIRM, E.TAKE, E.FINISH_APPLY) is S.APPLIED


def test_applies_only_plans_freely_and_asks_for_a_code_before_the_apply() -> None:
    assert walk(APPLIES, E.START, E.TAKE, E.FINISH_PLAN) is S.AWAITING_APPLY_AUTHENTICATION
    assert walk(APPLIES, E.START, E.TAKE, E.FINISH_PLAN, APPLY, E.TAKE, E.FINISH_APPLY) is S.APPLIED


def test_plans_and_applies_asks_twice_and_queues_nothing_before_the_first_code() -> None:
    assert walk(BOTH, E.START) is S.AWAITING_PLAN_AUTHENTICATION
    assert walk(BOTH, E.START, PLAN, E.TAKE, E.FINISH_PLAN) is S.AWAITING_APPLY_AUTHENTICATION
    assert walk(BOTH, E.START, PLAN, E.TAKE, E.FINISH_PLAN, APPLY, E.TAKE, E.FINISH_APPLY) is S.APPLIED


def test_the_code_of_the_plan_is_not_the_code_of_the_apply() -> None:
    with pytest.raises(TransitionRefused):
        advance(S.AWAITING_APPLY_AUTHENTICATION, E.AUTHENTICATE, GateFacts(BOTH, frozenset({PLAN})))
    with pytest.raises(TransitionRefused):
        advance(S.APPLY_QUEUED, E.TAKE, GateFacts(BOTH, frozenset({PLAN})))


def test_a_level_that_was_lowered_does_not_free_a_waiting_run() -> None:
    in_force = stricter(APPLIES, NEVER)
    assert in_force is APPLIES
    with pytest.raises(TransitionRefused):
        advance(S.AWAITING_APPLY_AUTHENTICATION, E.CONFIRM, GateFacts(in_force))


def test_a_level_that_was_raised_stops_a_confirmation_and_a_queued_apply() -> None:
    raised = GateFacts(stricter(NEVER, APPLIES))
    assert advance(S.AWAITING_CONFIRMATION, E.CONFIRM, raised) is S.AWAITING_APPLY_AUTHENTICATION
    assert advance(S.AWAITING_CONFIRMATION, E.RAISE, raised) is S.AWAITING_APPLY_AUTHENTICATION
    with pytest.raises(TransitionRefused):
        advance(S.APPLY_QUEUED, E.TAKE, raised)
    assert advance(S.APPLY_QUEUED, E.GATE_CLOSED, raised) is S.AWAITING_APPLY_AUTHENTICATION


def test_only_a_run_that_awaits_plan_authentication_or_is_pending_leaves_the_environment_free() -> None:
    assert set(RunStatus) - FINAL - HOLDING == {S.PENDING, S.AWAITING_PLAN_AUTHENTICATION}


@pytest.mark.parametrize("status", sorted(FINAL))
def test_nothing_happens_after_the_end(status: RunStatus) -> None:
    assert not any(can(status, event) for event in Event)
    assert not (can_authenticate(status) or can_confirm(status) or can_discard(status) or can_cancel(status))


@pytest.mark.parametrize("status", sorted(set(RunStatus) - FINAL))
def test_every_run_that_has_not_ended_can_be_canceled(status: RunStatus) -> None:
    assert can_cancel(status)


@pytest.mark.parametrize("status", sorted(RUNNING))
def test_a_running_phase_ends_by_terraform_alone(status: RunStatus) -> None:
    assert not can(status, E.CANCEL) and can(status, E.STOPPED) and not can_discard(status)


@pytest.mark.parametrize("status", RunStatus)
def test_every_status_has_words(status: RunStatus) -> None:
    assert status.words and status.words[0].isupper()


@pytest.mark.parametrize("status", sorted(set(RunStatus) - FINAL))
def test_every_status_that_is_not_final_has_a_way_to_the_end(status: RunStatus) -> None:
    everything = GateFacts(NEVER, frozenset(PhaseKind))
    reached, todo = {status}, [status]
    while todo:
        at = todo.pop()
        for event in Event:
            if can(at, event):
                new = advance(at, event, everything)
                if new not in reached:
                    reached.add(new)
                    todo.append(new)
    assert reached & FINAL


#: What can happen in the world: an event, a code that AWS accepts or refuses for a phase, the level changing.
happenings = st.lists(
    st.one_of(
        st.sampled_from(list(Event)),
        st.tuples(st.just("code"), st.sampled_from(list(PhaseKind)), st.booleans()),
        st.tuples(st.just("level"), st.sampled_from(list(MfaLevel))),
    ),
    max_size=40,
)


@given(created=st.sampled_from(list(MfaLevel)), happened=happenings)
def test_no_sequence_of_events_starts_a_phase_past_a_gate(created: MfaLevel, happened: list[object]) -> None:
    status, present, accepted = S.PENDING, created, set[PhaseKind]()
    for thing in happened:
        if isinstance(thing, tuple) and thing[0] == "level":
            present = thing[1]
            continue
        if isinstance(thing, tuple):
            _, phase, good = thing
            assert isinstance(phase, PhaseKind)
            if status.awaited_phase is not phase or not good:
                continue  # the form is not there, or AWS refused
            accepted.add(phase)
            event = E.AUTHENTICATE
        else:
            assert isinstance(thing, Event)
            event = thing
        in_force = stricter(created, present)
        try:
            new = advance(status, event, GateFacts(in_force, frozenset(accepted)))
        except TransitionRefused:
            continue
        if event in (E.GATE_CLOSED, E.NEVER_BEGAN):
            accepted.discard(PLAN if status in (S.PLAN_QUEUED, S.PLANNING) else APPLY)
        if new in RUNNING and new is not status:
            kind = PLAN if new is S.PLANNING else APPLY
            assert not in_force.demands(kind) or kind in accepted
            assert not created.demands(kind) or kind in accepted
        if new is S.APPLYING:
            assert status is S.APPLY_QUEUED
        status = new


@given(status=st.sampled_from(list(RunStatus)), event=st.sampled_from(list(Event)),
       level=st.sampled_from(list(MfaLevel)), accepted=st.frozensets(st.sampled_from(list(PhaseKind))))  # fmt: skip
def test_advance_answers_or_refuses_and_buttons_agree(
    status: RunStatus, event: Event, level: MfaLevel, accepted: frozenset[PhaseKind]
) -> None:
    try:
        new: RunStatus | None = advance(status, event, GateFacts(level, accepted))
    except TransitionRefused as refused:
        new, said = None, str(refused)
    if new is None:
        assert said.endswith(".")
    else:
        assert can(status, event) and new is not status
