"""Secrets among the options: found by their names, kept elsewhere, and in no text that is shown.

`tests/system/test_secrets.py` runs the stages with them.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from jsonargparse import Namespace

from hepflow.cli import COMMANDS, main
from hepflow.config.engines import SparkConfig
from hepflow.config.score import KafkaConfig, ReplayConfig, ScoreConfig
from hepflow.config.secrecy import PASSED_ON, check_secrets
from hepflow.errors import ConfigError, MissingDependency
from hepflow.system.secret import NAMES, hidden, in_text, is_secret, remember, resolved
from hepflow.system.terminal import Lines, show_bug

MARK = "xyzzy-42"
SECRETS = """
    sasl.password ssl.key.password ssl.key.pem sasl.oauthbearer.client.secret key token passphrase
    sasl.oauthbearer.config kafka.sasl.jaas.config kafka.ssl.keystore.key secret aws_session_token
    spark.hadoop.fs.s3a.secret.key spark.hadoop.fs.s3a.access.key spark.authenticate.secret
    spark.ssl.keyStorePassword spark.executorEnv.AWS_SECRET_ACCESS_KEY account_key sas_token
    connection_string Authorization api_key X-Amz-Signature X-Amz-Credential authz sig
    spark.hadoop.fs.azure.account.key.me.blob.core.windows.net
"""
NO_SECRETS = """
    sasl.username security.protocol ssl.ca.location ssl.key.location signal master endpoint_url
    spark.executorEnv.BEARER_TOKEN_FILE AWS_WEB_IDENTITY_TOKEN_FILE profile anon sort_key keys
    spark.hadoop.fs.s3a.aws.credentials.provider spark.executor.memory spark.authenticate
    sasl.oauthbearer.token.endpoint.url spark.kerberos.keytab monitor auth.users author classes
    hadoop.security.credential.provider.path spark.redaction.regex
"""
IN_TEXTS = {
    f"https://me:{MARK}@host/x": True,
    f"https://{MARK}@host/x": True,
    f"root://host//x.root?authz={MARK}": True,
    f"https://host/x?X-Amz-Date=1&X-Amz-Signature={MARK}": True,
    f"export API_TOKEN={MARK}": True,
    f"--export=ALL,API_TOKEN={MARK}": True,
    f'+Environment="API_TOKEN={MARK}"': True,
    f"-Xmx1g -Djavax.net.ssl.keyStorePassword={MARK}": True,
    "export API_TOKEN=$(cat ~/.token)": False,
    'export API_TOKEN="$(cat ~/.token)"': False,
    "export BEARER_TOKEN_FILE=/afs/me/token": False,
    "root://me@host//x.root": False,
    "kafka://one:9092,two:9092/events": False,
    "https://host/x.root?tree=Delphes": False,
    "s3://tokens/key=1/secret": False,
    "key=1/*.root": False,
    "k8s://https://host:6443": False,
    "source slurm/env.sh": False,
}


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """Return a function that runs hepflow here and returns its exit status and all it printed."""

    def run(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        return end.value.code, "".join(capsys.readouterr())

    return run


def test_names_tell_secrets() -> None:
    assert [name for name in SECRETS.split() if not is_secret(name)] == []
    assert [name for name in NO_SECRETS.split() if is_secret(name)] == []


@pytest.mark.parametrize("text", IN_TEXTS)
def test_secrets_within_texts_are_found(text: str) -> None:
    assert in_text(text) == ([MARK] if IN_TEXTS[text] else [])


def own_options(config: type, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(config):
        kind = get_type_hints(config)[one.name]
        nested = is_dataclass(kind)
        name = f"{prefix}{one.name}"
        found |= own_options(kind, f"{name}.") if nested else {name: kind}  # type: ignore[arg-type]
    return found


def all_options() -> set[str]:
    """Return the options of all commands, with those of Lightning's classes."""
    train = pytest.importorskip("hepflow.train.parser")
    in_spark = pytest.importorskip("hepflow.train.spark.job")
    found = set(chain.from_iterable(own_options(c.config) for c in COMMANDS.values() if c.config))

    class Options(in_spark.SparkCLI):  # type: ignore[misc, name-defined]
        def before_instantiate_classes(self) -> None: ...

        instantiate_classes = before_instantiate_classes

    assert issubclass(Options, train.TrainCLI)
    return found | set(Options("fit", ()).parser.get_defaults().keys())


FORMS = ("https://me:{}@host/x", "s3://bucket/x?token={}", "export TOKEN={}", "{{password: {}}}")


def refusal(word: str) -> str:
    try:
        check_secrets([word])
    except ConfigError as error:
        return str(error)
    return ""


def test_every_option_refuses_a_secret_or_passes_it_on(caplog: pytest.LogCaptureFixture) -> None:
    """A new option that takes secrets belongs to one of the groups, which the tests below cover."""
    options = all_options()
    assert {"input", "cluster.jobs.prologue", "trainer.logger", "spark.conf"} < options
    of_a_net = {"model"} | {name for name in options if f"{name}.".startswith("model.")}
    of_tls = {"cluster.tls.ca", "cluster.tls.cert", "cluster.tls.key"}
    paths = {"config"}
    refusals = {
        (option, form): refusal(f"--{option}={form.format(MARK)}")
        for option in sorted(options - paths)
        for form in FORMS
    }
    assert [text for text in refusals.values() if MARK in text] == []
    taken = {option for (option, _), text in refusals.items() if not text}
    assert taken == of_a_net | of_tls | set(PASSED_ON)
    assert {name for name in options if is_secret(name)} <= of_a_net | {"cluster.tls.key"}
    assert MARK not in caplog.text


COMMAND_OF = {
    "kafka.properties": ("score", "--input=kafka://h:1/t", "--stream"),
    "kafka.options": ("score", "--input=kafka://h:1/t", "--stream"),
    "properties": ("replay",),
    "spark.conf": ("ingest",),
    "cluster.spark.conf": ("features",),
}
WRONG = "[sasl.password: {}]"


def given(option: str, way: str, folder: Path) -> list[str]:
    """Return the words that give a secret in one of the mappings."""
    content = f"{{a.password: {MARK}}}"
    group, _, last = option.rpartition(".")
    (folder / "group.yaml").write_text(f"{last}: {content}\n")
    nested = content
    for name in reversed(option.split(".")):
        nested = f"{{{name}: {nested}}}"
    (folder / "file.yaml").write_text(nested)
    words = {
        "word": [f"--{option}.a.password={MARK}"],
        "two words": [f"--{option}.a.password", MARK],
        "mapping": [f"--{option}={content}"],
        "file": [f"--config={folder}/file.yaml"],
        "file of a group": [f"--{group}={folder}/group.yaml"],
        "reference": [f"--{option}.a.password=env:MARKED"],
    }
    return words[way]


WAYS = ("word", "two words", "mapping", "file", "file of a group", "reference")


@pytest.mark.parametrize(
    ("option", "way"),
    [  # properties has no group
        pair for pair in product(PASSED_ON, WAYS) if pair != ("properties", "file of a group")
    ],
)
def test_a_printed_configuration_has_references_and_no_secrets(
    option: str,
    way: str,
    tmp_path: Path,
    say: Callable[..., tuple[object, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MARKED", MARK)
    code, text = say(*COMMAND_OF[option], *given(option, way, tmp_path), "--print-config")
    assert code in (0, None), text
    assert MARK not in text
    kept = f"# {option}.a.password: left out, a secret" in text
    assert kept == (way != "reference")
    assert ("env:MARKED" in text) == (way == "reference")


@pytest.mark.parametrize(
    "words",
    [
        ("score", f"--kafka.properties={WRONG.format(MARK)}"),
        ("ingest", "--spark.conf", f"{{a.token: {MARK}}}", "--retries", "x"),
        ("ingest", f"--storage={{s3://b: {{secret: {MARK}}}}}"),
        ("ingest", f"--spark={{conf: {{a.token: {MARK}}}, nothing: 1}}"),
        ("train", "fit", f"--trainer.logger={{class_path: L, init_args: {{api_key: {MARK}}}}}"),
        ("train", "fit", "-c", f"{{trainer: {{logger: {{api_key: {MARK}}}}}}}"),
        ("train", "fit", f"--config=https://host/x.yaml?token={MARK}"),
        ("tune", f"--space={{trainer.logger.init_args.api_key: [{MARK}]}}"),
        ("features", "--samples", f"s3://me:{MARK}@b"),
        ("score", f"--input=kafka://me:{MARK}@host:9092/t", "--stream"),
    ],
)
def test_a_mistake_shows_no_secret(
    words: tuple[str, ...], say: Callable[..., tuple[object, str]]
) -> None:
    code, text = say(*words)
    assert code == 2, text
    assert MARK not in text
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("hepflow: error: ")


def test_values_come_from_files_variables_and_the_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{MARK}\n")
    monkeypatch.setenv("MARKED", MARK)
    monkeypatch.setenv("HOME", str(tmp_path))
    options = {"a.password": f"file:{path}", "token": "env:MARKED", "dir": "file:/tmp"}
    options |= {"headers": {"Authorization": "file:~/secret"}, "b.secret": None, "c.key": "plain"}
    found = resolved(options, "storage")
    assert found == {
        **options,
        **dict.fromkeys(("a.password", "token"), MARK),
        "headers": {"Authorization": MARK},
    }
    pytest.importorskip("keyring")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.support.memory_keyring.MemoryKeyring")
    monkeypatch.setenv("MEMORY_KEYRING", MARK)
    assert resolved({"password": "keyring:kafka/me"}, "x") == {"password": MARK}


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("file:/no/such", "cannot read the secret in /no/such (No such file or directory)"),
        ("file:/dev/null", "the file /dev/null is empty"),
        ("env:NOT_THERE", "no variable NOT_THERE"),
        ("keyring:noservice", "names no user"),
    ],
)
def test_a_missing_secret_is_one_line(reference: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        resolved({"password": reference}, "kafka.properties")
    assert str(caught.value).startswith("kafka.properties.password: ")


def test_an_unknown_entry_of_the_keyring_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("keyring")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.support.memory_keyring.MemoryKeyring")
    with pytest.raises(ConfigError, match="no entry kafka/nobody in the keyring"):
        resolved({"password": "keyring:kafka/nobody"}, "kafka.properties")


def test_a_missing_keyring_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(MissingDependency, match=re.escape("pip install 'hepflow[keyring]'")):
        resolved({"password": "keyring:kafka/anybody"}, "kafka.properties")


@pytest.mark.parametrize(
    ("mode", "words", "said"),
    [
        (0o600, "--config={}/client.yaml", ""),
        (0o644, "--config={}/client.yaml", "other users can read the secret in it"),
        (0o600, "--properties.sasl.password=file:{}/secret", ""),
        (0o640, "--properties.sasl.password=file:{}/secret", "other users can read the secret"),
        (0o600, f"--properties.sasl.password={MARK}", "`ps` shows it to other users"),
    ],
)
def test_a_warning_tells_who_can_read_a_secret(
    mode: int, words: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in (("secret", MARK), ("client.yaml", f"properties: {{a.password: {MARK}}}")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    check_secrets([words.format(tmp_path)])
    assert said in caplog.text
    assert bool(said) == bool(caplog.messages)


def test_messages_and_tracebacks_have_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    value = 'a "quoted\\ x&y 42'
    remember([value, "true", "ab"])
    shown = [value, repr(value), f"{{'a': {value!r}}}", "a%20%22quoted%5C%20x%26y%2042"]
    assert [text for text in shown if "quoted" in hidden(text)] == []
    assert hidden("true, ab") == "true, ab"
    record = logging.LogRecord("hepflow", logging.INFO, "", 1, "got %s", (value,), None)
    assert Lines().format(record) == "got ***"
    error = ValueError(f"{value}\x1b[31m")
    show_bug(ValueError, error, None)
    assert capsys.readouterr().err == "ValueError: ***␛[31m\n"


def test_java_s_lines_are_text_without_secrets() -> None:
    output = pytest.importorskip("hepflow.engines.java").JavaOutput()
    remember([MARK])
    with suppress(RuntimeError), output.captured() as stderr:
        os.write(stderr, f"WARN \x1b[2J{MARK}\n".encode())
        raise RuntimeError
    assert output.text() == "WARN ␛[2J***"


def test_configurations_are_printed_without_their_properties() -> None:
    kafka = KafkaConfig(properties={"sasl.password": MARK}, options={"kafka.a": MARK})
    for config in (
        ScoreConfig(kafka=kafka, spark=SparkConfig(conf={"a.token": MARK})),
        ReplayConfig(properties={"sasl.password": MARK}),
    ):
        assert MARK not in repr(config)


def test_loggers_get_secrets_and_copies_references(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = pytest.importorskip("hepflow.train.parser")
    monkeypatch.setenv("MARKED", MARK)
    logger = Namespace(class_path="L", init_args=Namespace(api_key="env:MARKED", name="env:MARKED"))
    trainer = Namespace(logger=[logger], callbacks=None, max_epochs=3)
    found = parser._with_secrets(trainer, "trainer")
    assert found.logger[0].init_args == Namespace(api_key=MARK, name="env:MARKED")
    assert logger.init_args.api_key == "env:MARKED"
    assert found.max_epochs == 3


def test_spark_gets_values_and_hides_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    spark = pytest.importorskip("hepflow.engines.spark")
    monkeypatch.setenv("MARKED", MARK)
    conf = {"spark.a.token": "env:MARKED", "spark.eventLog.dir": "file:/tmp", "spark.b": None}
    found = spark.properties(SparkConfig(conf=conf))
    assert found["spark.a.token"] == MARK
    assert found["spark.eventLog.dir"] == "file:/tmp"
    assert found["spark.redaction.regex"] == NAMES
