"""An extension of griffe: classes show the introduction that `auto_docstring` gives them when they are imported."""

import ast
from typing import Any

from griffe import Class, Docstring, ExprCall, ExprKeyword, Extension


class CustomIntro(Extension):
    """Reads ``@auto_docstring(custom_intro="...")`` as the docstring of a class that has no other."""

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        """Give a class its docstring, unless it has one."""
        for decorator in cls.decorators if cls.docstring is None else []:
            arguments = decorator.value.arguments if isinstance(decorator.value, ExprCall) else []
            for argument in arguments:
                if isinstance(argument, ExprKeyword) and argument.name == "custom_intro":
                    cls.docstring = Docstring(ast.literal_eval(str(argument.value)), parent=cls)
