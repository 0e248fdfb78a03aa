"""An extension of griffe, which reads the code without running it: documentation that is no docstring."""

import ast
from typing import Any

from griffe import Attribute, Class, Docstring, ExprCall, ExprKeyword, Extension


class Described(Extension):
    """Reads ``@auto_docstring(custom_intro="...")`` of classes, and ``option(default, "...")`` of fields."""

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
