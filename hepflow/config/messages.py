"""Sentences for the errors of a parser: what is wrong, in which file, and what is allowed.

jsonargparse's messages name its own types and keys, and do not name the file. They are rewritten
by patterns; a message that matches none is shown as it is.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from jsonargparse import ArgumentParser

from hepflow.config.options import spelt

EXAMPLE = "options with values, such as `output: a/folder`"
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
"""Name of a Python type -> its name for users."""
TYPES |= dict.fromkeys(("tuple", "list"), "a list")
TYPES |= dict.fromkeys(("collections.abc.Iterable", "collections.abc.Sequence"), "a list")
TYPES |= dict.fromkeys(("dict", "collections.abc.Mapping"), "of the form {name: value}")
MOVED = {"estimate": "Use `hepflow plan`, and remove the lines estimate and json of old files."}
"""Former option -> what to do instead."""
_KEY = 'Parser key "(.+?)": '
SENTENCES = {
    r"argument (--\S+): expected one argument": "{0} needs a value.",
    r"the following arguments are required: (.+)": "these options are required: {0}.",
    r'Parser key "config": File does not exist: (.+)': "--config: no file {0}.",
    r"Unexpected config: .*": "{file}: not a mapping. Write {example}.",
    r'Problems parsing config: .*"<unicode string>", (line \d+).*?': "{file}: not YAML near {0}.",
    _KEY + r".*(?:instantiatable class|class_path|import path).*NestedArg\(key=\'(.+?)\'.*": (
        "{option}.{1}: {option} has options once it is a class, such as "
        "{option} package.module.Class."
    ),
    _KEY + r"Expected .*NestedArg\(key=\'(.+?)\'.*": "{option} has no options, so no {option}.{1}.",
    _KEY + r".* callable class: (?:Option \'|unrecognized arguments: --)(.+?)[\'=].*"
    r"class_path=\'(.+?)\'.*": "{option}.{1}: {2} has no such option.",
    _KEY + r".* callable class: (?!Parser key)(.+?)\. Got value.*": "{option}: {1}.",
    _KEY + r".* dot import path string: (\S+).*": (
        "{option} must be a class, such as hepflow.models.hlf.HLFNet; got {1}."
    ),
}
"""Pattern of jsonargparse's message -> sentence; ``option`` is the key as the user wrote it."""
WITHIN = r'Parser key "(.+?)":.* callable class: Parser key "(.+)\. Got value: Namespace\(.*'
"""Pattern of a message about an argument of a class, which is about the key in it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean ...?"``, or nothing.

    Suggested are names that end with the same last part, or start with the word, or else the one
    with the closest spelling.
    """
    names = list(dict.fromkeys(known))
    last = {re.split("[. ]", name)[-1]: name for name in names}
    part = re.split("[. ]", word)[-1].lstrip("-")
    found = [name for name in names if re.split("[. ]", name)[-1] == part]
    found = found or [name for name in names if name.startswith(word)]
    found = found or get_close_matches(word, names, n=1)
    found = found or [last[one] for one in get_close_matches(word, last, n=1)]
    return f" Did you mean {' or '.join(found[:3])}?" if found and word else ""


def explained(text: str, parser: ArgumentParser, file: str | None) -> str:
    """Return the sentence for a message of the parser; ``file``: configuration with the error."""
    text = re.sub(WITHIN, r'Parser key "\1.\2', text)
    spelling, start = (str, f"{file}: ") if file else (spelt, "")

    def unknown(key: str) -> str:
        if key in MOVED:
            return f"{start}no option {spelling(key)}. {MOVED[key]}"
        hidden = ("__", *(f"{group}." for group in getattr(parser, "former", ())))
        defaults = parser.get_defaults().keys()  # of a Namespace, which is no mapping
        names = [spelling(name) for name in defaults if not name.startswith(hidden)]
        return f"{start}no option {spelling(key)}.{nearest(spelling(key), names)}"

    for pattern, sentence in SENTENCES.items():
        if found := re.fullmatch(pattern, text):
            option = start + spelling((*found.groups(), "")[0])
            groups, where = found.groups(), file or "--config"
            return sentence.format(*groups, file=where, option=option, example=EXAMPLE)
    if found := re.match(r"unrecognized arguments: ([^\s=]+)", text):
        argument = found[1]
        if argument.startswith("--"):
            return unknown(argument[2:])
        return f"{argument!r} is not an option or its value. Write lists with commas, not blanks."
    reason = r"(?:Option|Group) '(.+?)' (?:is not accepted|does not accept option '(.+)')"
    if found := re.match(reason, text):
        return unknown(".".join(filter(None, found.groups())))
    if found := re.match(r'Parser key "(.+?)": (.+)', text):
        return start + spelling(found[1]) + _wrong_value(found[2])
    return f"{start}{text}."


def _wrong_value(text: str) -> str:
    """Return the allowed and the given value, from the types that jsonargparse expected."""
    expected = re.findall(r"Expected an? (typing\.Literal\[.+?\]|<class '.+?'>)", text)
    value = re.search(r"(?:Got|Given) value: ?(.*?)(?: Given value type.*)?$", text)
    if not expected or not value:
        return f": {text}."
    allowed, choices = [], []
    for kind in expected:
        names = re.findall(r"'(.+?)'", kind)
        if "Literal" in kind:
            choices += names
            allowed.append(" or ".join(filter(None, (", ".join(names[:-1]), names[-1]))))
        elif "NoneType" not in kind:
            allowed.append(TYPES.get(names[0], names[0]))
    got = value[1]
    return f" must be {' or '.join(allowed)}; got {got or 'nothing'}.{nearest(got, choices)}"
