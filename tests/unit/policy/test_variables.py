"""Names, values and precedence of variables."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from botocore.utils import validate_region_name
from hypothesis import given
from hypothesis import strategies as st

from policy import variables
from policy.variables import check_name, check_value, normalise, region_of, resolve

FIXED = "Lockstep sets it for each run"
PROGRAM = "it changes how programs of the run are started"
TRUST = "connections and their certificates are set by the operator of Lockstep"
KEYS = "a run uses only the keys of this page, so that MFA cannot be passed by"
ENDPOINT = "only the operator of Lockstep decides which servers AWS calls go to"
SESSION = "Lockstep makes the session itself, from long-lived keys and a code"
STATE = "Lockstep keeps the state and the working directory itself"
GIT = "it makes Git run or read something else"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("PATH", FIXED), ("HOME", FIXED), ("TMPDIR", FIXED), ("TF_INPUT", FIXED), ("TF_IN_AUTOMATION", FIXED),
        ("LD_PRELOAD", PROGRAM), ("LD_LIBRARY_PATH", PROGRAM), ("DYLD_INSERT_LIBRARIES", PROGRAM),
        ("PYTHONPATH", PROGRAM), ("BASH_ENV", PROGRAM), ("ENV", PROGRAM), ("IFS", PROGRAM),
        ("SHELLOPTS", PROGRAM), ("PROMPT_COMMAND", PROGRAM), ("NODE_OPTIONS", PROGRAM),
        ("TF_REATTACH_PROVIDERS", PROGRAM), ("TF_PLUGIN_CACHE_DIR", PROGRAM),
        ("TF_CLI_CONFIG_FILE", TRUST), ("TERRAFORM_CONFIG", TRUST), ("SSL_CERT_FILE", TRUST),
        ("SSL_CERT_DIR", TRUST), ("AWS_CA_BUNDLE", TRUST), ("HTTP_PROXY", TRUST), ("https_proxy", TRUST),
        ("No_Proxy", TRUST),
        ("AWS_ENDPOINT_URL", ENDPOINT), ("AWS_ENDPOINT_URL_STS", ENDPOINT),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", ENDPOINT), ("AWS_STS_ENDPOINT", ENDPOINT), ("AWS_S3_ENDPOINT", ENDPOINT),
        ("AWS_IAM_ENDPOINT", ENDPOINT), ("AWS_DYNAMODB_ENDPOINT", ENDPOINT), ("TF_AWS_STS_ENDPOINT", ENDPOINT),
        ("AWS_ACCESS_KEY", "its name is AWS_ACCESS_KEY_ID"), ("AWS_SECRET_KEY", "its name is AWS_SECRET_ACCESS_KEY"),
        ("AWS_PROFILE", KEYS), ("AWS_CREDENTIAL_FILE", KEYS), ("AWS_SHARED_CREDENTIALS_FILE", KEYS),
        ("AWS_CONFIG_FILE", KEYS), ("AWS_WEB_IDENTITY_TOKEN_FILE", KEYS),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", KEYS),
        ("AWS_SESSION_TOKEN", SESSION), ("AWS_SECURITY_TOKEN", SESSION),
        ("TF_DATA_DIR", STATE), ("TF_WORKSPACE", STATE), ("TF_LOG_PATH", STATE),
        ("TF_CLI_ARGS", "Lockstep decides how Terraform is called"),
        ("TF_CLI_ARGS_show", "Lockstep decides how Terraform is called"),
        ("TF_CLI_ARGS_plan2", "Lockstep decides how Terraform is called"),
        ("GIT_SSH_COMMAND", GIT), ("GIT_EXEC_PATH", GIT), ("GIT_CONFIG_COUNT", GIT), ("GIT_CONFIG", GIT),
        ("LOCKSTEP_HOME", "names that begin with LOCKSTEP_ belong to Lockstep"),
    ],
)  # fmt: skip
def test_names_that_would_break_the_run_are_refused_with_the_reason(name: str, why: str) -> None:
    assert check_name(name, "env") == f"{name} cannot be set: {why}."
    assert check_name(name, "terraform") is None, "as an input variable the name means nothing"


@pytest.mark.parametrize(
    "name",
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_MFA_SERIAL_NUMBER", "AWS_REGION",
     "AWS_DEFAULT_REGION", "TF_VAR_x", "TF_LOG", "TF_CLI_ARGS_plan", "TF_CLI_ARGS_apply", "TF_CLI_ARGS_init",
     "CONFIRM_DESTROY", "LANG", "GITHUB_TOKEN", "TF_TOKEN_app_terraform_io", "PATHS", "_x", "x" * 128,
     "ENVIRONMENT", "aws_profile"],
)  # fmt: skip
def test_other_names_are_taken(name: str) -> None:
    assert check_name(name, "env") is None


@pytest.mark.parametrize(
    ("category", "malformed"),
    [
        ("env", "A name has only letters A to Z, digits and underscores, and does not begin with a digit."),
        (
            "terraform",
            "A name has only letters A to Z, digits, underscores and hyphens, and begins with a letter or _.",
        ),
    ],
)
def test_malformed_names_are_refused(category: str, malformed: str) -> None:
    for name in ("1x", "-x", "a b", "ä", "a.b", "a=b", "a/b", "x\n", " x", "BASH_FUNC_x%%", "٣"):
        assert check_name(name, category) == malformed
    assert check_name("", category) == "Enter a name."
    assert check_name("x" * 129, category) == "A name has at most 128 characters."


def test_a_hyphen_is_for_terraform_alone() -> None:
    assert check_name("vpc-cidr", "terraform") is None
    assert check_name("vpc-cidr", "env") is not None and check_name("TF_VAR_vpc-cidr", "env") is not None


def test_names_terraform_reserves_are_refused_as_input_variables_only() -> None:
    assert check_name("count", "terraform") == "count cannot be set: Terraform reserves this name."
    assert check_name("count", "env") is None


@given(st.text(max_size=200), st.sampled_from(["env", "terraform"]))
def test_a_name_that_passes_is_plain(name: str, category: str) -> None:
    if check_name(name, category) is None:
        plain = name.replace("-", "_") if category == "terraform" else name
        assert name.isascii() and plain.isidentifier() and len(name) <= 128


def test_values_have_a_size_in_bytes() -> None:
    assert check_value("x", "env", "ä" * (128 * 1024)) is None
    assert check_value("x", "env", "ä" * (128 * 1024) + "x") == "The value is larger than 256 KB."
    assert check_value("x", "terraform", "x" * (256 * 1024 + 1)) == "The value is larger than 256 KB."
    assert check_value("x", "env", "a\0b") == "The value contains a NUL character."
    assert check_value("x", "env", "\ud800") == "The value is not valid text."
    assert check_value("x", "env", "several\nlines\r\n") is None
    assert check_value("x", "env", "") is None


@pytest.mark.parametrize(
    "value", ["arn:aws:iam::123456789012:mfa/alice", "arn:aws-us-gov:iam::1:mfa/a+b=c,d@e", "GAHT12345678"]
)
def test_serials_of_devices_are_taken(value: str) -> None:
    assert check_value("AWS_MFA_SERIAL_NUMBER", "env", value) is None


def test_the_arn_of_a_user_gets_a_hint_at_the_device() -> None:
    sentence = check_value("AWS_MFA_SERIAL_NUMBER", "env", "arn:aws:iam::123456789012:user/alice")
    assert sentence is not None and ":mfa/ in place of :user/" in sentence


@pytest.mark.parametrize("value", ["", "12345678", "x" * 257, "arn:aws:iam::1:mfa/al ice", "GAHT12345678\n", "ä" * 12])
def test_other_serials_are_refused(value: str) -> None:
    sentence = check_value("AWS_MFA_SERIAL_NUMBER", "env", value)
    assert sentence is not None and "9 to 256" in sentence


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE", None),
        ("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE", "is a temporary key (ASIA…). Use the long-lived key"),
        ("AWS_ACCESS_KEY_ID", "", "has only letters, digits and underscores"),
        ("AWS_ACCESS_KEY_ID", "AKIA\nX", "has only letters, digits and underscores"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCY", None),
        ("AWS_SECRET_ACCESS_KEY", "", "is empty."),
        ("AWS_SECRET_ACCESS_KEY", "abc def", "in one line."),
        ("AWS_REGION", "eu-central-1", None),
        ("AWS_DEFAULT_REGION", "us-gov-west-1", None),
        ("AWS_REGION", "eusc-de-east-1", None),
        ("AWS_REGION", "evil.example/?", "is the name of an AWS region"),
        ("AWS_REGION", "123", "is the name of an AWS region"),
        ("AWS_REGION", "us-east-1-", "is the name of an AWS region"),
        ("AWS_REGION", "-us-east-1", "is the name of an AWS region"),
        ("AWS_REGION", "a" * 64, "is the name of an AWS region"),
        ("AWS_DEFAULT_REGION", "", "is the name of an AWS region"),
    ],
)
def test_keys_and_regions_are_checked(name: str, value: str, expected: str | None) -> None:
    sentence = check_value(name, "env", value)
    assert (sentence is None) if expected is None else (sentence is not None and expected in sentence)
    assert check_value(name, "terraform", value) is None


@pytest.mark.parametrize(
    "value", ["", "-parallelism=20", "-refresh=false -compact-warnings", "--lock-timeout=5m\n-refresh"]
)
def test_harmless_arguments_are_taken(value: str) -> None:
    assert check_value("TF_CLI_ARGS_plan", "env", value) is None


@pytest.mark.parametrize(
    "value",
    ["-out=x", "-state=/tmp/x", "-state-out=x", "-backup=x", "-chdir=/", "-auto-approve", "-destroy",
     "-backend=false", "-backend-config=x", "-json", "-no-color", "-detailed-exitcode", "-input=true",
     "-lock=false", "-refresh-only", "-parallelism=0", "-parallelism 5", "'-refresh'",
     "-refresh;-out=x", "-target=x", "-var=x=y", "-lock-timeout=5m5",
     "-ref\\resh", "x.plan", "-parallelism=٣"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["TF_CLI_ARGS_init", "TF_CLI_ARGS_plan", "TF_CLI_ARGS_apply"])
def test_arguments_that_would_change_the_run_are_refused(name: str, value: str) -> None:
    sentence = check_value(name, "env", value)
    assert sentence is not None and sentence.startswith(f"{name} takes only")
    assert check_value(name, "env", f"-refresh=true {value}") is not None


@given(
    st.text(max_size=300),
    st.sampled_from([*variables.REQUIRED_FOR_MFA, "AWS_REGION", "TF_CLI_ARGS_plan", "x"]),
)
def test_a_sentence_never_repeats_the_value(text: str, name: str) -> None:
    value = f"{text}\0marker-of-a-secret"
    assert "marker-of-a-secret" not in str(check_value(name, "env", value))


def test_blanks_are_cut_from_aws_values_only() -> None:
    assert normalise("AWS_ACCESS_KEY_ID", " AKIA\n") == "AKIA"
    assert normalise("AWS_MFA_SERIAL_NUMBER", "\tGAHT12345678 ") == "GAHT12345678"
    assert normalise("AWS_REGION", "eu-west-1\r\n") == "eu-west-1"
    assert normalise("motd", " hello\n") == " hello\n"


@dataclass(frozen=True)
class Row:
    scope_rank: int
    category: str
    name: str


ROWS = st.builds(Row, st.integers(0, 3), st.sampled_from(["env", "terraform"]), st.sampled_from("abc"))


@given(st.lists(ROWS, unique=True))
def test_the_highest_scope_wins_whatever_the_order(rows: list[Row]) -> None:
    winners = resolve(rows)
    assert winners == resolve(reversed(rows))
    assert set(winners) == {(row.category, row.name) for row in rows}
    for (category, name), winner in winners.items():
        same = [row for row in rows if (row.category, row.name) == (category, name)]
        assert winner.scope_rank == max(row.scope_rank for row in same)


@given(st.text(st.sampled_from("abz019-"), max_size=70))
def test_a_region_that_passes_is_one_for_the_aws_client(value: str) -> None:
    if check_value("AWS_REGION", "env", value) is None:
        validate_region_name(value)


def test_the_region_is_read_as_the_provider_reads_it() -> None:
    assert region_of({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}) == "a"
    assert region_of({"AWS_REGION": "", "AWS_DEFAULT_REGION": "b"}) == "b"
    assert region_of({}) is None


@pytest.mark.parametrize("value", ["abc", "ab\ncd\n", "  abc  ", "x\n  yz "])
def test_a_sensitive_value_that_cannot_be_hidden_is_refused(value: str) -> None:
    sentence = variables.check_hideable(value)
    assert sentence is not None
    assert sentence.startswith("The value is too short to be hidden in logs: ")


@pytest.mark.parametrize("value", ["", "  ", "abcd", "{\n  longer\n}"])
def test_one_line_that_is_long_enough_is_enough(value: str) -> None:
    assert variables.check_hideable(value) is None


@pytest.mark.parametrize("parts", [["123", "long enough"], ["long enough", "22"], ["a", "b"], ["}\nfi"]])
def test_every_part_of_a_sensitive_hcl_value_has_to_be_long_enough(parts: list[str]) -> None:
    sentence = variables.check_hideable("long enough", parts)
    assert sentence == (
        "The value is too short to be hidden in logs: a string or number in it has fewer than 4 characters. Nothing "
        "was saved. Use longer ones, or put the short ones into a variable of their own that is not sensitive."
    )


@pytest.mark.parametrize("parts", [[], [""], ["  "], ["1234", "}\nlong enough\nfi"]])
def test_an_hcl_value_of_long_parts_can_be_hidden(parts: list[str]) -> None:
    assert variables.check_hideable("[]", parts) is None
