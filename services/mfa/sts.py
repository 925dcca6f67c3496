"""The only caller of AWS STS."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, cast

import botocore.loaders
import botocore.session
from botocore.config import Config as ClientConfig
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    InvalidRegionError,
    ParamValidationError,
    ProxyConnectionError,
    SSLError,
)

from config import Config
from policy.sts_answers import (
    NO_ANSWER,
    NOT_SIX_DIGITS,
    REGION_OFF,
    REGION_WRONG,
    UNKNOWN,
    UNREACHABLE,
    Answer,
    classify,
)
from services.mfa.credentials import TemporaryCredentials

if TYPE_CHECKING:
    from types_boto3_sts import STSClient

CONNECT_SECONDS, READ_SECONDS = 5, 15

# At DEBUG botocore logs requests and answers whole: the code, the secret key and the session token.
logging.getLogger("botocore").setLevel(logging.INFO)

#: Where no region is set: a region of the partition that the device's ARN names. Its regional STS endpoint issues
#: tokens that are good in every region of the partition; those of the global endpoint are not (IAM user guide).
_PARTITION_REGION = {"aws": "us-east-1", "aws-us-gov": "us-gov-west-1", "aws-cn": "cn-north-1"}

_ARN = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::\d{12}:[\w+=/:,.@-]+")

MASK = "•••"

#: Where AWS begins to quote the request; its own sentence is one line.
_REQUEST = re.compile(r"[\r\n\u2028\u2029]|(the )?canonical|(the )?string[- ]to[- ]sign", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{40,}", re.IGNORECASE)


@dataclass(frozen=True)
class LongLivedKeys:
    """An IAM user's keys and device. ``repr`` shows no key."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    mfa_serial: str
    region: str | None


class StsRefused(Exception):
    """STS gave no session. Holds the row of the table, AWS's own code and words, and the caller if AWS named it.

    ``sent`` tells whether anything went to AWS; ``more`` is a sentence to add to the row's own.
    """

    def __init__(
        self, answer: Answer, aws_code: str = "", aws_message: str = "", *, sent: bool = True, more: str = ""
    ) -> None:
        super().__init__(answer.reason)
        self.answer, self.aws_code, self.aws_message = answer, aws_code, aws_message.strip()
        self.sent, self.more = sent, more
        named = _ARN.search(aws_message.partition("is not authorized")[0])
        self.caller_arn = named.group() if named else None


def get_session_token(config: Config, keys: LongLivedKeys, code: str, seconds: int) -> TemporaryCredentials:
    """One GetSessionToken call with the code; no retry, because a lost answer may have burnt it.

    ``seconds`` is DurationSeconds, 900 to 129,600. Raises :class:`StsRefused`.
    """
    region = region_for(keys.mfa_serial, keys.region)
    try:
        client = _client(config, keys.access_key_id, keys.secret_access_key, None, region)
    except InvalidRegionError:
        raise StsRefused(REGION_WRONG, sent=False, more=f"The region is {region[:100]}.") from None
    except Exception as error:  # such as an endpoint that is no address; nothing was sent
        raise StsRefused(UNREACHABLE, type(error).__name__, sent=False) from None
    try:
        answer = client.get_session_token(DurationSeconds=seconds, SerialNumber=keys.mfa_serial, TokenCode=code)
        got = answer["Credentials"]
        return TemporaryCredentials(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"], got["Expiration"])
    except ClientError as error:
        raise _from_client_error(error, region, code) from None
    except ParamValidationError:
        raise StsRefused(NOT_SIX_DIGITS, "ParamValidationError", sent=False) from None
    except (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError) as error:
        raise StsRefused(UNREACHABLE, type(error).__name__) from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise StsRefused(NO_ANSWER, "MalformedAnswer") from None
    except Exception as error:
        # Never its text: a ResponseParserError, which is no BotoCoreError, quotes the response body, secret key
        # included. The same may be true of others, and whatever it was, the code may be used up.
        raise StsRefused(NO_ANSWER, type(error).__name__) from None


def caller_arn(config: Config, credentials: TemporaryCredentials, region: str) -> str | None:
    """The identity of temporary credentials, by GetCallerIdentity; None when AWS does not say. Spends no code.

    ``region`` is one of the partition in which the session was made (:func:`region_for`); no other knows it.
    """
    try:
        client = _client(
            config, credentials.access_key_id, credentials.secret_access_key, credentials.session_token, region
        )  # fmt: skip
        arn = client.get_caller_identity()["Arn"]
    except Exception:  # whatever the answer was, it is not worth a phase, and its text may quote credentials
        return None
    return arn if isinstance(arn, str) else None


def region_for(mfa_serial: str, region: str | None) -> str:
    """The region to ask for a session and about it: the variables' own, else one of the device's partition."""
    partition = mfa_serial.split(":")[1] if mfa_serial.startswith("arn:") else "aws"
    return region or _PARTITION_REGION.get(partition, _PARTITION_REGION["aws"])


def read_descriptions() -> None:
    """Read what every client is made from: a process that is forked off has it then. Nothing is sent."""
    region = _PARTITION_REGION["aws"]
    _session().create_client("sts", region_name=region, aws_access_key_id="-", aws_secret_access_key="-")  # noqa: S106


@cache
def _descriptions() -> botocore.loaders.Loader:
    """The files of botocore about the API and AWS's regions, read once: that takes a tenth of a second.

    It keeps nothing else, and is made for many clients: all of a session's go through one.
    """
    return botocore.loaders.create_loader()


def _session() -> botocore.session.Session:
    """A session that reads neither ~/.aws nor a profile."""
    session = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
    session.register_component("data_loader", _descriptions())
    return session


def _client(config: Config, key: str, secret: str, token: str | None, region: str) -> STSClient:
    """A client with only the given keys, region and the operator's endpoint."""
    client = _session().create_client(
        "sts",
        region_name=region,
        endpoint_url=config.sts_endpoint,
        verify=config.operator.get("AWS_CA_BUNDLE"),
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=ClientConfig(
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            proxies=config.proxies_for(config.sts_endpoint or f"https://sts.{region}.amazonaws.com"),
            use_fips_endpoint=config.operator.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true",
        ),
    )
    return cast("STSClient", client)


def _from_client_error(error: ClientError, region: str, typed: str) -> StsRefused:
    body = error.response.get("Error", {})
    code, message = str(body.get("Code", "")), str(body.get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
    answer = classify(code, message, status)
    code, message = _without(typed, code), _without(typed, message)
    if answer is REGION_OFF:  # AWS says "this region" and names none
        return StsRefused(answer, code[:100], f"{message[:400]} ({region})", more=f"The region is {region}.")
    # An answer that is no error of AWS (a proxy's page, say) can hold anything: only known words are kept.
    return StsRefused(answer, code[:100], message[:500] if answer is not UNKNOWN or code.isalnum() else "")


def _without(typed: str, words: str) -> str:
    """AWS's words as they can be kept: without the code that was sent, and nothing from which it could be had.

    A ValidationError quotes what does not suit it. The canonical string that may follow a SignatureDoesNotMatch has a
    hash of the request, and a million codes are tried in a second.
    """
    words = _REQUEST.split(words.strip(), maxsplit=1)[0].strip()
    return _HASH.sub(MASK, words.replace(typed, MASK))
