"""Answers a parsed GraphQL document from plain dicts.

An object of the schema is a dict: a field's name → its value, or a function of the field's arguments.
A function is called only when the field is asked for, so a dict may be as deep as the schema is.
"""

import inspect

from .parser import Fragment, GraphQLError, Variable

# Fragments on these apply to every type that implements them.
_INTERFACES = {"ArtifactCollection", "Node"}


class UnknownError(GraphQLError):
    """A field or an argument that this server has no answer for."""


def execute(document, variables, root):
    """Answers the document's operation.

    Args:
        document: `parser.Document`.
        variables: Dict of the request's variables.
        root: Dict, the fields of the query and the mutation type together.

    Returns:
        Dict, what goes under `data`.

    Raises:
        UnknownError: a field or argument is not in the dicts.
        GraphQLError: an operation refused.
    """
    return _Execution(document, {**document.defaults, **(variables or {})}).select(root, document.selections, "root")


class _Execution:
    def __init__(self, document, variables):
        self._fragments = document.fragments
        self._variables = variables

    def select(self, value, selections, where):
        if isinstance(value, list):
            return [self.select(item, selections, where) for item in value]
        if value is None or not selections:
            return value
        fields = {}
        self._collect(value, selections, fields)
        answer = {}
        for alias, same in fields.items():
            # A fragment may repeat a field with other selections: the answer holds them all.
            wanted = [selection for field in same for selection in field.selections]
            path = f"{where}.{same[0].name}"
            answer[alias] = self.select(self._resolve(value, same[0], path), wanted, path)
        return answer

    def _collect(self, value, selections, fields):
        for selection in selections:
            if not self._included(selection.directives):
                continue
            if not isinstance(selection, Fragment):
                fields.setdefault(selection.alias, []).append(selection)
                continue
            fragment = selection
            if selection.name is not None:
                if selection.name not in self._fragments:
                    raise GraphQLError(f"Unknown fragment {selection.name!r}.")
                fragment = self._fragments[selection.name]
            if self._applies(fragment.on_type, value):
                self._collect(value, fragment.selections, fields)

    def _applies(self, on_type, value):
        own = value.get("__typename")
        return own is None or on_type in (None, own) or on_type in _INTERFACES

    def _included(self, directives):
        wanted = {"include": True, "skip": False}
        return all(bool(self._fill(args["if"])) == wanted[name] for name, args in directives if name in wanted)

    def _resolve(self, value, field, path):
        if field.name not in value:
            raise UnknownError(f"Cannot query field {field.name!r} at {path}.")
        found = value[field.name]
        if not callable(found):
            return found
        args = {name: self._fill(arg) for name, arg in field.args.items() if self._given(arg)}
        try:
            inspect.signature(found).bind(**args)
        except TypeError as error:
            raise UnknownError(f"Unknown argument at {path}: {error}.") from error
        return found(**args)

    def _given(self, arg):
        # A variable that was not sent means an argument that was not written.
        return not isinstance(arg, Variable) or arg.name in self._variables

    def _fill(self, value):
        if isinstance(value, Variable):
            return self._variables.get(value.name)
        if isinstance(value, list):
            return [self._fill(item) for item in value]
        if isinstance(value, dict):
            return {name: self._fill(item) for name, item in value.items() if self._given(item)}
        return value
