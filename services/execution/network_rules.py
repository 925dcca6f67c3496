"""Which connections a run is refused, as the settings say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, parse_qs, urlsplit

from config import Config
from services.execution.network_programs import METADATA, Rules

Address = IPv4Address | IPv6Address

_LOCALHOST = IPv4Address("127.0.0.1")
_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def rules(config: Config) -> Rules:
    """The metadata addresses, and the ports of web server, Redis and database where those are this machine's.

    Where the operator's own settings lead terraform to one of them, as an endpoint or a proxy, it may go there.
    """
    named = set(_named(config))
    ports = {config.port, *_redis(config.redis_url), *_database(config.database_url)}
    ports -= {port for address, port in named if _is_loopback(address)}
    spared = {(address, port) for address, port in named if address in METADATA}
    return Rules(tuple(sorted(ports)), tuple(sorted(spared, key=str)))


def _named(config: Config) -> Iterator[tuple[Address, int]]:
    for name, value in config.operator.items():
        if name.startswith("AWS_ENDPOINT_URL") or (name.endswith("_PROXY") and name != "NO_PROXY"):
            url = urlsplit(value if "://" in value else f"http://{value}")
            address, port = _address(url.hostname or ""), _port(url) or _DEFAULT_PORTS.get(url.scheme)
            if address is not None and port is not None:
                yield address, port


def _redis(text: str) -> Iterator[int]:
    url = urlsplit(text)
    if url.scheme != "unix" and _is_here(url.hostname or "localhost"):
        yield _port(url) or 6379


def _database(text: str) -> Iterator[int]:
    """Without a host it is a unix socket; hosts and ports may stand behind the question mark (libpq, "URIs")."""
    url = urlsplit(text)
    if not url.scheme.startswith("postgres"):
        return
    given = parse_qs(url.query)
    ports = [int(port) for port in ",".join(given.get("port", [])).split(",") if port.isdecimal()]
    if url.hostname and _is_here(url.hostname):
        yield _port(url) or 5432
    for host in ",".join(given.get("host", []) + given.get("hostaddr", [])).split(","):
        if _is_here(host):
            yield from ports or [5432]
        elif _is_here(host.rpartition(":")[0]) and host.rpartition(":")[2].isdecimal():  # as SQLAlchemy takes them
            yield int(host.rpartition(":")[2])


def _port(url: SplitResult) -> int | None:
    with suppress(ValueError):
        return url.port
    return None


def _is_here(host: str) -> bool:
    address = _address(host)
    return address is not None and _is_loopback(address)


def _is_loopback(address: Address) -> bool:
    return address.is_loopback or address.is_unspecified


def _address(host: str) -> Address | None:
    if host.lower() == "localhost":
        return _LOCALHOST
    with suppress(ValueError):
        address = ip_address(host.strip("[]"))
        return getattr(address, "ipv4_mapped", None) or address
    return None
