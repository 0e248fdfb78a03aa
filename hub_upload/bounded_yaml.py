"""Parse YAML to plain values in linear time and memory: no references, no merge keys, no object tags."""

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from .errors import InputError, reason_of

MOST_CHARACTERS = 2**17
_DEEPEST = 50
_LONGEST_NUMBER = 100


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without features that expand a short text: anchors, aliases, merge keys, deep nesting."""

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Refuse references and deep nesting before a node is created."""
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:  # of an alias, too
            raise yaml.constructor.ConstructorError(None, None, "anchors (&, *) are not read", event.start_mark)
        self.depth += 1
        if self.depth > _DEEPEST:
            problem = f"more than {_DEEPEST} levels of nesting"
            raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: MappingNode) -> None:
        """Refuse merge keys and duplicate names."""
        names = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", key.start_mark)
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in names:
                    problem = f"{key.value[:80]!r} occurs twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                names.add((key.tag, key.value))

    def construct_number(self, node: ScalarNode) -> int | float:
        """Refuse numbers with so many digits that parsing them is slow."""
        if len(node.value) > _LONGEST_NUMBER:
            problem = f"a number of {len(node.value):,} characters"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if node.tag == "tag:yaml.org,2002:int":
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _PlainLoader.add_constructor(_tag, _PlainLoader.construct_number)


def parse_yaml(text: str, origin: str) -> Any:
    """Parse a YAML document.

    Args:
        text: at most `MOST_CHARACTERS` characters.
        origin: source of the text, for the error message.

    Raises:
        InputError: with one line, for text that is too long, not valid YAML, or has anchors, aliases, merge keys,
            object tags, a duplicate name, more than 50 levels, or a number of more than 100 characters.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{origin} has more than {MOST_CHARACTERS:,} characters, which is too long for such a text.")
    try:
        loader = _PlainLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise InputError(f"{origin} is not supported YAML: {error.problem or error.context}{line}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{origin} is not supported YAML: {reason_of(error)}.") from error
