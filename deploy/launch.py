"""What `make run` and `make demo` start: Redis, web server and workers, kept running until Ctrl-C.

`python -m deploy.launch [--demo]`, from the top folder of the project. Nothing is reused but the data folder.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import gc
import http.client
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import config as settings
from deploy import demo_stack, redis_server
from deploy.processes import REQUEST_GRACE, Child, preparing
from deploy.supervisor import Failed, StopRequested, Supervisor, say

#: How long the web server may take until it answers, in seconds.
READY_SECONDS = 60.0
#: How long it may take to end: gunicorn first lets its requests finish.
WEB_GRACE = REQUEST_GRACE + 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a stop is requested; the exit status is 0 for that and 1 for everything else."""
    parser = argparse.ArgumentParser(prog="python -m deploy.launch")
    parser.add_argument("--demo", action="store_true", help="with the sample organization and the AWS stand-in")
    demo = bool(parser.parse_args(arguments).demo)
    os.umask(0o077)
    try:
        environ = demo_stack.environment(os.environ) if demo else dict(os.environ)
        config = settings.load(environ)
        with _only_one(config.home):
            return _launch(config, environ, demo)
    except (Failed, settings.ConfigurationError, redis_server.RedisMissing) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before anything was started
        return 0


def _launch(config: settings.Config, environ: Mapping[str, str], demo: bool) -> int:
    demo_stack.check_folder(config.home, demo)
    _check_address(config, "demo" if demo else "run")
    try:
        with Supervisor() as supervisor:
            try:
                _start(supervisor, config, environ, demo)
                supervisor.run()
            except StopRequested:
                say("Stopping …")
    except OSError as error:
        raise Failed(f"A process cannot be started: {error}.") from None
    say("Stopped.")
    return 0


def _start(supervisor: Supervisor, config: settings.Config, environ: Mapping[str, str], demo: bool) -> None:
    home, logs = config.home, config.home / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    env = {**environ, "LOCKSTEP_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    if config.private_redis:
        supervisor.start([_redis(home, env, logs)])
    if demo:
        env |= demo_stack.start(supervisor, home, env, logs)
    gc.disable()  # a collection among what is being loaded finds nothing, and takes a fifth of the time
    # Only now: what refuses a start is said at once, and Redis starts meanwhile.
    from deploy import loaded

    loaded.load(settings.load(env))
    gc.enable()
    if config.private_redis:
        supervisor.wait_until(lambda: redis_server.answers(home), READY_SECONDS, "Redis does not answer.")
    web = Child("web", loaded.web, env, logs, grace=WEB_GRACE)
    with open(preparing(home), "a") as file:
        # It starts while the tables are made, and takes no request before they are (deploy/gunicorn_conf.py).
        fcntl.flock(file, fcntl.LOCK_EX)
        supervisor.start([web])
        prepared = json.loads(supervisor.run_once(Child("prepare", loaded.tables, env, logs)))
    url = f"http://{_address(_reachable(config.host))}:{config.port}"
    not_ready = f"The web server did not answer on {url} in {READY_SECONDS:.0f} s; see {logs / 'web.log'}."
    supervisor.wait_until(lambda: _healthy(config), READY_SECONDS, not_ready)
    loaded.rehearse()
    names = [f"worker-{number}" for number in range(1, config.workers + 1)]
    supervisor.start([Child(name, loaded.work, env, logs, patient=True) for name in names])
    if demo:
        demo_stack.seed(supervisor, env, logs)
    say(f"Lockstep is ready: {url}")
    if demo:
        demo_stack.explain(home)
    elif token := prepared["setup_token"]:
        say(f"Nobody has an account yet. Make the first owner's: {url}/setup/{token}")
    say(f"Data and logs are in {home}. Ctrl-C ends everything.")


def _redis(home: Path, env: Mapping[str, str], logs: Path) -> Child:
    return Child(
        "redis",
        redis_server.command(home),
        env,
        logs,
        stage=2,
        prepare=lambda: redis_server.clear_stale(home),
        advice=f"If it cannot read its files, {home / 'redis'} may be removed: no run, log or state is lost.",
    )


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the data folder: a lock that ends with this process, however it ends."""
    with open(home / "launcher.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Failed(f"Lockstep is already running on this data folder (pid {holder}).") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _check_address(config: settings.Config, target: str) -> None:
    """Refuse an address that the web server could not listen on."""
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror:
        raise Failed(f"HOST {config.host} is no address.") from None
    problem = _problem(family, config.host, config.port)
    if problem == errno.EADDRINUSE:
        ports = range(config.port + 1, min(config.port + 100, 65536))
        free = next((port for port in ports if not _problem(family, config.host, port)), None)
        example = f": make {target} PORT={free}" if free else ""
        raise Failed(f"Port {config.port} is taken. Set PORT to another one{example}.")
    if problem in (errno.EACCES, errno.EPERM):
        raise Failed(f"Port {config.port} is for the administrator alone. Set PORT to one above 1023.")
    if problem:
        raise Failed(f"Lockstep cannot listen on {config.host}: {os.strerror(problem)}. Set HOST to another address.")


def _problem(family: socket.AddressFamily, host: str, port: int) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0


def _healthy(config: settings.Config) -> bool:
    connection = http.client.HTTPConnection(_reachable(config.host), config.port, timeout=5)
    host = config.trusted_hosts[0].lstrip(".") if config.trusted_hosts else _address(_reachable(config.host))
    try:
        connection.request("GET", "/health", headers={"Host": host})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 compared, not bound


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
