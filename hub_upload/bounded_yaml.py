"""YAML as plain values, in time and memory that grow with its length: no references, no merges, no tags of code."""

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from .errors import InputError, reason_of

MOST_CHARACTERS = 2**17
_DEEPEST = 50
_LONGEST_NUMBER = 100


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without what lets a few bytes stand for many: anchors, aliases, merge keys, endless nesting."""

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Refuse references and deep nesting before a node is made."""
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
        """Refuse what the safe loader would merge, and a name that is given twice."""
        names = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", key.start_mark)
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in names:
                    problem = f"{key.value[:80]!r} is there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                names.add((key.tag, key.value))

    def construct_number(self, node: ScalarNode) -> int | float:
        """Refuse numbers of so many digits that reading them takes long."""
        if len(node.value) > _LONGEST_NUMBER:
            problem = f"a number of {len(node.value):,} characters"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if node.tag == "tag:yaml.org,2002:int":
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _PlainLoader.add_constructor(_tag, _PlainLoader.construct_number)


def parse_yaml(text: str, origin: str) -> Any:
    """The value of a YAML document.

    Args:
        text: of at most `MOST_CHARACTERS`.
        origin: where it comes from, as the error names it.

    Raises:
        InputError: in one line, for text that is too long, no valid YAML, or has anchors, aliases, merge keys, tags
            of objects, a name twice, more than 50 levels, or a number of more than 100 characters.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{origin} has more than {MOST_CHARACTERS:,} characters, which no such text needs.")
    try:
        loader = _PlainLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        place = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise InputError(f"{origin} is not YAML that is read here: {error.problem or error.context}{place}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{origin} is not YAML that is read here: {reason_of(error)}.") from error
