"""Answers a GraphQL document from plain dicts; graphql-core parses it.

An object of the schema is a dict: a field's name → its value, or a function of the field's arguments.
A function is called only when the field is requested, so a dict may be as deep as the schema is.

graphql-core's own executor needs a schema in which every type is written out. W&B does not publish its schema, and what the
client requests is known only from its requests: a missing field must be reported by name, not worked around.
"""

import inspect

import graphql
from graphql.language import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    VariableNode,
)
from graphql.utilities import value_from_ast_untyped

# Fragments on these apply to every type that implements them.
_INTERFACES = {"ArtifactCollection", "Node"}


class GraphQLError(Exception):
    """What the client receives under `errors`.

    Args:
        message: Str, shown to the user by the client.
        status: Int, the HTTP status of the answer.
    """

    def __init__(self, message, status=200):
        super().__init__(message)
        self.status = status


class UnknownError(GraphQLError):
    """A field or an argument that this server has no answer for."""


def execute(text, variables, root):
    """Answers the one operation of a document.

    Args:
        text: Str, the GraphQL document.
        variables: Dict of the request's variables, or None.
        root: Dict, the fields of the query and the mutation type together.

    Returns:
        Dict, what goes under `data`.

    Raises:
        UnknownError: the text is not GraphQL, or a field or argument is not in the dicts.
        GraphQLError: an operation refused.
    """
    try:
        document = graphql.parse(text, no_location=True)
    except graphql.GraphQLSyntaxError as error:
        raise UnknownError(error.message) from error
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    (operation,) = (node for node in document.definitions if isinstance(node, OperationDefinitionNode))
    defaults = {
        node.variable.name.value: value_from_ast_untyped(node.default_value)
        for node in operation.variable_definitions or ()
        if node.default_value
    }
    execution = _Execution(fragments, {**defaults, **(variables or {})})
    return execution.select(root, operation.selection_set.selections, "root")


class _Execution:
    def __init__(self, fragments, variables):
        self._fragments = fragments
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
            nested = [node for field in same if field.selection_set for node in field.selection_set.selections]
            path = f"{where}.{same[0].name.value}"
            answer[alias] = self.select(self._resolve(value, same[0], path), nested, path)
        return answer

    def _collect(self, value, selections, fields):
        for node in selections:
            if not self._included(node.directives or ()):
                continue
            if isinstance(node, FieldNode):
                fields.setdefault((node.alias or node.name).value, []).append(node)
                continue
            fragment = self._fragment(node) if isinstance(node, FragmentSpreadNode) else node
            if self._applies(fragment.type_condition, value):
                self._collect(value, fragment.selection_set.selections, fields)

    def _fragment(self, node):
        name = node.name.value
        if name not in self._fragments:
            raise GraphQLError(f"Unknown fragment {name!r}.")
        return self._fragments[name]

    def _applies(self, condition, value):
        own = value.get("__typename")
        return own is None or condition is None or condition.name.value in (own, *_INTERFACES)

    def _included(self, directives):
        required = {"include": True, "skip": False}
        conditions = {
            node.name.value: self._arguments(node)["if"] for node in directives if node.name.value in required
        }
        return all(bool(condition) == required[name] for name, condition in conditions.items())

    def _resolve(self, value, field, path):
        if field.name.value not in value:
            raise UnknownError(f"Cannot query field {field.name.value!r} at {path}.")
        resolver = value[field.name.value]
        if not callable(resolver):
            return resolver
        arguments = self._arguments(field)
        try:
            inspect.signature(resolver).bind(**arguments)
        except TypeError as error:
            raise UnknownError(f"Unknown argument at {path}: {error}.") from error
        return resolver(**arguments)

    def _arguments(self, node):
        return {item.name.value: self._value(item.value) for item in node.arguments or () if self._sent(item.value)}

    def _sent(self, node):
        # A variable that was not sent means an argument that was not written.
        return not isinstance(node, VariableNode) or node.name.value in self._variables

    def _value(self, node):
        if isinstance(node, VariableNode):
            return self._variables.get(node.name.value)
        if isinstance(node, ListValueNode):
            return [self._value(item) for item in node.values]
        if isinstance(node, ObjectValueNode):  # not value_from_ast_untyped: it makes an unsent variable a null
            return {item.name.value: self._value(item.value) for item in node.fields if self._sent(item.value)}
        return value_from_ast_untyped(node)
