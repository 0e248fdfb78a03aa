"""An extension of griffe, which reads the code without running it: documentation that is no docstring."""

import ast
import re
from typing import Any

from griffe import Attribute, Class, Docstring, ExprCall, ExprKeyword, Extension, Object

_EXAMPLE = re.compile(r"^>>> .*\n?(?:.+\n?)*", re.MULTILINE)


def with_fences(text: str) -> str:
    """The text of a docstring with its examples in blocks of code, which Markdown would take for quotations."""
    example = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
    return re.sub(r" *# doctest: .*", "", example)


class Described(Extension):
    """Shows examples as code, the introductions of `auto_docstring`, and the meanings of options."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Put the examples of a docstring into blocks of code."""
        if obj.docstring is not None:
            obj.docstring.value = with_fences(obj.docstring.value)

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        """Give a class the introduction that its decorator adds to it, unless it has a docstring."""
        for decorator in cls.decorators if cls.docstring is None else []:
            arguments = decorator.value.arguments if isinstance(decorator.value, ExprCall) else []
            for argument in arguments:
                if isinstance(argument, ExprKeyword) and argument.name == "custom_intro":
                    cls.docstring = Docstring(ast.literal_eval(str(argument.value)), parent=cls)

    def on_attribute(self, *, attr: Attribute, **kwargs: Any) -> None:
        """Give an option its default and its meaning."""
        call = attr.value
        if isinstance(call, ExprCall) and str(call.function) == "option":
            default, meaning = call.arguments
            text = ast.literal_eval(str(meaning))
            attr.value = default
            attr.docstring = Docstring(f"{text[0].upper()}{text[1:]}.", parent=attr)
