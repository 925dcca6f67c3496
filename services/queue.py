"""The only module that enqueues, and the one place that knows Redis for work."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from flask import current_app
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from models import Phase
from services import clock

#: Every worker takes from this one, and first from its machine's own, ``lockstep.HOST``.
QUEUE = "lockstep"
RUN_PHASE = "services.execution.job.run_phase"
ADOPT_PHASE = "services.execution.job.adopt_phase"

#: All that a job can be.
FUNCTIONS = frozenset((RUN_PHASE, ADOPT_PHASE))

#: Signs of workers: each renews its own every 15 s.
_PRESENT = "lockstep:worker:"
_PRESENT_SECONDS = 45

#: A job that a worker took is begun within this time, or was lost with its worker.
_BEGUN_WITHIN = timedelta(seconds=20)

#: Seconds in which two machines that look around enqueue one job between them; less than between two looks.
_MOMENT = 10

log = logging.getLogger(__name__)


class NotOurs(Exception):
    """A job that Lockstep has not queued. Its text holds nothing of the job's."""


class PhaseJob(Job):
    """A job that runs one of :data:`FUNCTIONS` and nothing else: who can write to Redis names no other code.

    RQ imports whatever name stands in a job, as its function or as what is to be called after it, also when it only
    tidies up after jobs that were lost.
    """

    @property
    def func(self) -> Any:
        """The function. Raises :class:`NotOurs`."""
        self.require_ours()
        return super().func

    def require_ours(self) -> None:
        """Raise :class:`NotOurs` unless it is one of the two functions with the id of a phase, and nothing beside."""
        try:
            what = (self.func_name in FUNCTIONS, self.instance, [type(value) for value in self.args], self.kwargs)
        except Exception:  # RQ decodes it here, and what is in it is anybody's
            raise NotOurs("It cannot be read.") from None
        called = (self._success_callback_name, self._failure_callback_name, self._stopped_callback_name)
        if what != (True, None, [int], {}) or any(called) or self.webhooks:
            raise NotOurs("It is no phase of a run.")

    @property
    def success_callback(self) -> None:
        """None, whatever stands in Redis."""
        return

    @property
    def failure_callback(self) -> None:
        """None, whatever stands in Redis."""
        return

    @property
    def stopped_callback(self) -> None:
        """None, whatever stands in Redis."""
        return

    def send_webhooks(self, *_: Any, **__: Any) -> None:
        """None are sent, whatever stands in Redis."""


def connection() -> Redis:
    """The application's Redis client."""
    client: Redis = current_app.extensions["lockstep-redis"]
    return client


def connect(url: str, *, blocking: bool = False) -> Redis:
    """A client for ``url``. ``blocking`` is for the worker, whose reads wait longer than the client's usual 5 s."""
    if blocking:
        return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=5)
    return Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)


def queue(client: Redis | None = None, host: str | None = None) -> Queue:
    """The queue of all workers, or of those on one machine; JSON so that what lies in Redis is plain data."""
    name = f"{QUEUE}.{host}" if host else QUEUE
    return Queue(name, connection=client or connection(), serializer=JSONSerializer, job_class=PhaseJob)


def enqueue_phase(phase: Phase) -> bool:
    """Hand a queued phase to the workers. The id is the only argument.

    The job's id carries the moment of queueing, so that the same queueing twice is one job and a phase that went
    back to waiting can be queued again. The database already says that the phase is queued: when Redis is away this
    answers False, and a worker that looks around enqueues it.
    """
    return _enqueue(RUN_PHASE, phase.id, job_id(phase))


def enqueue_again(phase: Phase, there: frozenset[str]) -> bool:
    """Hand a phase that is still queued to the workers, unless its job is ``there``, as :func:`waiting` answered.

    A worker that is killed after it took a job from the queue and before it began leaves the job's record, and with it
    an id that is refused as one that is there already. So after a while the id is another one.
    """
    if phase.queued_at is None or clock.now() - phase.queued_at < _BEGUN_WITHIN:
        return enqueue_phase(phase)
    return _enqueue_again(RUN_PHASE, phase.id, job_id(phase), there)


def enqueue_adoption(phase: Phase, host: str, there: frozenset[str]) -> bool:
    """Hand a running phase whose worker was lost to another one on the machine that has its working directory.

    One job for each lease that lapsed, unless it is ``there``: see :func:`enqueue_again`.
    """
    lapsed = int(phase.heartbeat_at.timestamp() * 1000) if phase.heartbeat_at else 0
    return _enqueue_again(ADOPT_PHASE, phase.id, f"adopt-{phase.id}-{lapsed}", there, host)


def waiting(host: str | None = None) -> frozenset[str]:
    """What lies in the queue of all workers, or in that of a machine: ids of jobs, without the moment in them."""
    return frozenset("-".join(identifier.split("-")[:3]) for identifier in queue(host=host).get_job_ids())


def sign(worker: str, *, busy: bool) -> None:
    """A worker says that it is there; what it says is forgotten unless it says it again."""
    connection().set(_PRESENT + worker, b"busy" if busy else b"idle", ex=_PRESENT_SECONDS)


def absent(worker: str) -> None:
    """A worker says that it ends."""
    connection().delete(_PRESENT + worker)


def _said(host: str = "") -> list[Any]:
    """What the workers said last, all or those of a machine. Raises RedisError."""
    client, beginning = connection(), f"{_PRESENT}{host}:" if host else _PRESENT
    keys = [key for key in client.scan_iter(_PRESENT + "*", count=1000) if key.decode().startswith(beginning)]
    return [client.get(key) for key in keys]


def takeover_delay(host: str) -> str:
    """Why no worker of a machine takes over what a lost one left, as a sentence; "" when one is idle and will."""
    try:
        said = _said(host)
    except RedisError:
        return "Redis does not answer, so no worker can take over yet."
    if not said:
        return "No worker of that machine is running; one that starts takes over."
    if b"idle" in said:
        return ""
    if len(said) == 1:
        return "The only worker of that machine is busy with another run; it takes over when it is free."
    return f"All {len(said)} workers of that machine are busy with other runs; the first that is free takes over."


def delay() -> str:
    """Why no worker takes what is queued, as a sentence; "" when one is idle and will."""
    try:
        said = _said()
    except RedisError:
        return "Redis does not answer, so no worker can take it. It starts by itself when Redis is back."
    if not said:
        return "No worker is running. It starts by itself when one is; on the server, flask doctor says more."
    if b"idle" in said:
        return ""
    if len(said) == 1:
        return "The only worker is busy with another run. It starts by itself when the worker is free."
    return f"All {len(said)} workers are busy with other runs. It starts by itself when one is free."


def _enqueue(function: str, phase_id: int, identifier: str, host: str | None = None) -> bool:
    try:
        queue(host=host).enqueue(
            function,
            phase_id,
            job_id=identifier,
            unique=True,
            job_timeout=-1,
            result_ttl=0,
            failure_ttl=0,
            description=identifier,
        )
    except DuplicateJobError:
        return True
    except RedisError as error:
        log.warning("%s not enqueued, Redis is away: %s", identifier, type(error).__name__)
        return False
    return True


def _enqueue_again(
    function: str, phase_id: int, identifier: str, there: frozenset[str], host: str | None = None
) -> bool:
    if identifier in there:
        return True
    moment = int(clock.now().timestamp()) // _MOMENT
    return _enqueue(function, phase_id, f"{identifier}-{moment}", host)


def job_id(phase: Phase) -> str:
    """RQ's id of this queueing of a phase."""
    queued = int(phase.queued_at.timestamp() * 1000) if phase.queued_at else 0
    return f"phase-{phase.id}-{queued}"
