"""Turns the text of a GraphQL document into a tree."""

import dataclasses
import json
import re

_TOKEN = re.compile(
    r'"""(?P<block>.*?)"""|(?P<string>"(?:\\.|[^"\\])*")|(?P<spread>\.\.\.)'
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<mark>[!$():=@\[\]{}|&])|(?P<skip>[\s,\ufeff]+|\#[^\n]*)",
    re.DOTALL,
)
_LITERALS = {"true": True, "false": False, "null": None}


class GraphQLError(Exception):
    """What is answered to the client under `errors`.

    Args:
        message: Str, shown to the user by the client.
        status: Int, the HTTP status of the answer.
    """

    def __init__(self, message, status=200):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Variable:
    """A `$name` where a value could stand."""

    name: str


@dataclasses.dataclass(frozen=True)
class Field:
    """One selected field; `alias` is its name in the answer."""

    alias: str
    name: str
    args: dict
    directives: list
    selections: list


@dataclasses.dataclass(frozen=True)
class Fragment:
    """`...Name` when `name` is set, else the fields that one type (or any, when None) selects."""

    name: str | None
    on_type: str | None
    directives: list
    selections: list


@dataclasses.dataclass
class Document:
    """The operation to answer and the fragments that it may spread."""

    name: str = ""
    defaults: dict = dataclasses.field(default_factory=dict)
    selections: list = dataclasses.field(default_factory=list)
    fragments: dict = dataclasses.field(default_factory=dict)


def parse(text):
    """Reads a document with one operation.

    Args:
        text: Str, the GraphQL document.

    Raises:
        GraphQLError: the text is not GraphQL as far as the wandb client writes it.
    """
    return _Parser(text).document()


class _Parser:
    def __init__(self, text):
        self._tokens = list(_tokens(text))
        self._at = 0

    def document(self):
        document = Document()
        while self._at < len(self._tokens):
            if self._peek() == "fragment":
                self._next()
                name = self._next()
                self._expect("on")
                document.fragments[name] = Fragment(name, self._next(), [], self._selections())
            else:
                self._operation(document)
        return document

    def _operation(self, document):
        if self._peek() != "{":
            self._next()  # query or mutation: the root's fields have names of their own
            if self._peek() not in ("(", "{"):
                document.name = self._next()
            if self._peek() == "(":
                document.defaults = self._defaults()
        document.selections = self._selections()

    def _defaults(self):
        found = {}
        self._expect("(")
        while not self._take(")"):
            self._expect("$")
            name = self._next()
            self._expect(":")
            while self._peek() not in ("=", "$", ")"):
                self._next()  # the type: nothing here checks types
            if self._take("="):
                found[name] = self._value()
        return found

    def _selections(self):
        found = []
        self._expect("{")
        while not self._take("}"):
            found.append(self._fragment() if self._take("...") else self._field())
        return found

    def _fragment(self):
        name = on_type = None
        if self._take("on"):
            on_type = self._next()
        elif self._peek() not in ("{", "@"):
            return Fragment(self._next(), None, self._directives(), [])
        return Fragment(name, on_type, self._directives(), self._selections())

    def _field(self):
        alias = name = self._next()
        if self._take(":"):
            name = self._next()
        args = self._arguments()
        directives = self._directives()
        selections = self._selections() if self._peek() == "{" else []
        return Field(alias, name, args, directives, selections)

    def _directives(self):
        found = []
        while self._take("@"):
            found.append((self._next(), self._arguments()))
        return found

    def _arguments(self):
        return self._pairs(")") if self._take("(") else {}

    def _pairs(self, end):
        found = {}
        while not self._take(end):
            name = self._next()
            self._expect(":")
            found[name] = self._value()
        return found

    def _value(self):
        if self._take("$"):
            return Variable(self._next())
        if self._take("{"):
            return self._pairs("}")
        if self._take("["):
            found = []
            while not self._take("]"):
                found.append(self._value())
            return found
        kind, token = self._tokens[self._at]
        self._at += 1
        if kind in ("string", "number"):
            return json.loads(token)
        # An enum's member is its own name; a block string has lost its quotes already.
        return _LITERALS.get(token, token)

    def _peek(self):
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _next(self):
        if self._at >= len(self._tokens):
            raise GraphQLError("Syntax Error: Unexpected <EOF>.")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _take(self, token):
        if self._peek() != token:
            return False
        self._at += 1
        return True

    def _expect(self, token):
        if (got := self._next()) != token:
            raise GraphQLError(f"Syntax Error: Expected {token!r}, found {got!r}.")


def _tokens(text):
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise GraphQLError(f"Syntax Error: Unexpected character {text[at]!r}.")
        if match.lastgroup != "skip":
            yield match.lastgroup, match.group(match.lastgroup)
        at = match.end()
